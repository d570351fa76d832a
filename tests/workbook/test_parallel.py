"""Several processes train as one: every pair of method and strategy, loss, gradients and state."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from hardlab import process, run_folder, train
from hardlab.errors import HardlabError
from hardlab.workbook import parallel

WORKER = Path(__file__).parents[1] / "helpers" / "ranked.py"
RESUMED = WORKER.with_name("resumed.py")
APART = "norms of each process"  # the variant that is not what one process does


def ranked(n, folder):
    out = folder / "rows.json"
    process.launched_together([str(WORKER), str(out)], n, "The test")
    return {row["what"]: row for row in json.loads(out.read_text())}


def unequal(rows):
    return [what for what, row in rows.items() if not row["equal"]]


@pytest.mark.slow
def test_two_processes_train_every_pair_like_one_and_a_stopped_run_goes_on_in_one_and_two(tmp_path):
    rows = ranked(2, tmp_path)
    assert unequal(rows) == [APART] and len(rows) > 130
    assert rows[APART]["same"] and rows[APART]["state"] > 1e-3


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("HARDLAB_FAULTS") != "long", reason="`make test-faults` runs it: 157 s of two cores")
def test_four_processes_train_every_pair_like_one_and_a_stopped_run_goes_on_in_four(tmp_path):
    assert unequal(ranked(4, tmp_path)) == [APART]


@pytest.mark.slow
def test_a_run_that_two_processes_stop_and_four_take_up_ends_like_one_that_was_not_stopped(tmp_path):
    run = parallel.stateful()
    for n, how in ((2, "stop"), (4, "go")):
        process.launched_together([str(RESUMED), str(tmp_path), how], n, "The test")
        about = run_folder.manifest(tmp_path / run.id)
        assert (about["state"], about["world_size"]) == ("done" if how == "go" else "running", n)
    with parallel.double_precision():
        whole = train.train(run, tmp_path / "whole", device="cpu", say=lambda line: None)
    assert parallel.difference(parallel.learned(tmp_path / run.id), parallel.learned(whole)) < parallel.BOUND


def test_the_difference_of_two_states_is_that_of_the_tensor_that_is_farthest_off():
    a = {"x": torch.ones(4), "y": [torch.tensor(7)], "z": torch.zeros(2)}
    assert parallel.difference(a, a) == 0
    assert parallel.difference(a | {"x": torch.full((4,), 1.0 + 2**-10)}, a) == pytest.approx(2**-10)
    assert parallel.difference(a | {"y": [torch.tensor(8)]}, a) == float("inf")
    assert parallel.difference(a | {"z": torch.full((2,), 1e-12)}, a) == pytest.approx(2**0.5 * 1e-12 / 2e-6)
    assert parallel.difference(a | {"z": torch.full((2,), torch.nan)}, a) == float("inf")
    assert parallel.difference({"x": a["x"]}, a) == float("inf")


def test_rows_say_what_is_equal_and_what_is_not():
    good = parallel.Difference("moco", 1e-16, 1e-15, 1e-14, True)
    assert good.equal and not good._replace(same=False).equal and not good._replace(gradient=2e-5).equal
    text = parallel.describe(2, [good._asdict() | {"equal": True}, good._asdict() | {"equal": False, "same": False}])
    assert [line.split("  ")[-1] for line in text.splitlines()[2:]] == ["equal", "NOT EQUAL; the ranks differ"]
    assert "NOT EQUAL 2, then 1 (1e-01)" in parallel.describe(2, [{"what": "2, then 1", "state": 0.1, "equal": False}])


def test_the_short_list_has_every_method_and_every_strategy_and_the_long_one_every_pair():
    from hardlab import build, registry

    few, every = parallel.pairs(every=False), parallel.pairs()
    assert {word for name in few for word in name.split("+")} == {*registry.METHODS, *registry.HARD}
    assert len(every) == len(registry.METHODS) + sum(why is None for why in build.matrix().values())


@pytest.mark.slow
def test_processes_that_fail_are_told_of():
    with pytest.raises(HardlabError, match=r"^It failed \(rank \d: exit 3\)"):
        process.launched_together(["-c", "raise SystemExit(3)"], 2, "It")
