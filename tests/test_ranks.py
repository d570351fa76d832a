"""The rows of a rank, and the random numbers of them. What ranks exchange is tested by workbook/test_parallel.py."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hardlab import build, data, process, ranks, recipes, run_folder, train
from hardlab.types import HardlabError

WAITING = Path(__file__).parent / "helpers" / "waiting.py"


@contextmanager
def as_rank(rank, size):
    """This process as one of several, as long as nothing is exchanged."""
    token = ranks._place.set(ranks.Place(rank, size, True))
    try:
        yield
    finally:
        ranks._place.reset(token)


def of_each(f, size):
    parts = []
    for rank in range(size):
        torch.manual_seed(3)
        with as_rank(rank, size):
            parts.append(f())
    return parts


def woven(parts):
    """Rows 0, 1, ... of the first part, the second, ... in turn."""
    return torch.stack(parts, 1).flatten(0, 1)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_own_rows_of_the_ranks_are_those_of_the_batch_also_of_slots_one_after_the_other(size):
    slots = torch.arange(8)[:, None] + torch.tensor([0, 100])  # (8,2)
    whole = torch.cat([slots[:, 0], slots[:, 1]])
    parts = of_each(lambda: ranks.own(whole), size)
    assert torch.equal(woven(parts), whole)
    for rank, part in enumerate(parts):
        assert part.tolist() == [*range(rank, 8, size), *range(100 + rank, 108, size)]
    assert torch.equal(torch.cat(of_each(lambda: ranks.own(slots.T, dim=1)[0], size)).sort().values, slots[:, 0])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_numbers_that_the_ranks_draw_are_those_of_the_whole_batch_and_leave_the_same_state(size):
    torch.manual_seed(3)
    wanted, after = torch.randn(8, 5), torch.rand(1)
    parts = of_each(lambda: (ranks.draw(lambda n: torch.randn(n, 5), 8 // size), torch.rand(1)), size)
    assert torch.equal(woven([x for x, _ in parts]), wanted)
    assert all(torch.equal(x, after) for _, x in parts)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_numbers_like_a_tensor_follow_its_order_in_memory(order):
    def laid(n):
        lengths = [(n, 3, 5)[d] for d in order]
        return torch.empty(lengths).permute([order.index(d) for d in range(3)])

    torch.manual_seed(3)
    wanted = torch.rand_like(laid(8))
    assert torch.equal(woven(of_each(lambda: ranks.rand_like(laid(4)), 2)), wanted)
    torch.manual_seed(3)
    assert torch.equal(ranks.rand_like(laid(8)), wanted)


def test_a_process_that_acts_alone_has_the_whole_batch_and_is_still_one_of_several():
    with as_rank(1, 4):
        assert (ranks.rank(), ranks.size(), ranks.met(), ranks.writes()) == (1, 4, True, False)
        with ranks.alone():
            assert (ranks.rank(), ranks.size(), ranks.met(), ranks.writes()) == (0, 1, True, True)
            assert ranks.own(torch.arange(4)).tolist() == [0, 1, 2, 3]
        assert ranks.size() == 4
    assert (ranks.rank(), ranks.size(), ranks.met()) == (0, 1, False)


def test_one_process_exchanges_nothing():
    x = torch.ones(2, requires_grad=True)
    assert all(f(x) is x for f in (ranks.own, ranks.whole, ranks.mean, ranks.largest))
    assert ranks.averaged([x, None])[0] is x and ranks.backend() is None
    assert ranks.any_of(True) and not ranks.any_of(False)
    assert [ranks.AnyOf()(flag) for flag in (True, False)] == [True, False]
    assert ranks.from_first(lambda: 3) == 3
    ranks.same(x)
    assert torch.equal(ranks.taken(x, torch.tensor([1])), x[1:])


def test_a_batch_that_does_not_split_is_refused_with_the_nearest_that_does():
    ranks.check_batch(10)
    with as_rank(0, 4):
        ranks.check_batch(12)
        with pytest.raises(HardlabError, match=r"batch_size=10 does not split .* 4 processes: .* batch_size=8"):
            ranks.check_batch(10)


@pytest.mark.parametrize(("cores", "here", "decoders"), [(64, "4", 16), (24, "4", 6), (2, "4", 1), (24, None, 16)])
def test_the_ranks_of_a_machine_share_its_cores_for_decoding(cores, here, decoders, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr(data, "load", lambda *a, workers, **options: seen.append(workers))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if here is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    with as_rank(0, 8):
        build.images(recipes.recipe("simsiam", "smoke"))
        with ranks.alone():  # the others are there all the same
            build.images(recipes.recipe("simsiam", "smoke"))
    assert seen == [decoders] * 2


def test_a_launcher_names_all_that_processes_need_to_meet():
    environment = dict.fromkeys(ranks.LAUNCHED, "1")
    assert ranks.launched(environment)
    assert not any(ranks.launched({k: v for k, v in environment.items() if k != name}) for name in environment)


def test_only_an_error_of_the_exchange_says_that_another_process_is_gone():
    error = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:2100")
    assert not ranks.lost(error)
    with as_rank(0, 2):
        assert ranks.lost(error)
        assert not ranks.lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        assert not ranks.lost(HardlabError("Connection closed by peer"))


@pytest.mark.slow
def test_ranks_wait_long_for_the_first_and_shortly_for_a_step_and_agree_on_a_stop_one_question_late(tmp_path):
    process.launched_together([str(WAITING), str(tmp_path)], 2, "The test")
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["answers"] for one in seen] == [[False, False, False, True]] * 2  # asked at the third
    assert [one["first"] for one in seen] == ["late"] * 2
    assert seen[0]["lost"] and 2 < seen[0]["after"] < 6


def test_what_torchrun_starts_takes_options_and_settings_in_any_order(tmp_path):
    words = ["simsiam", "--rung", "smoke", "epochs=0", "--runs", str(tmp_path), "seed=3"]
    assert train.main(words) == 0
    (path,) = tmp_path.glob("simsiam-smoke-s3-*")
    assert run_folder.manifest(path)["config"]["epochs"] == 0
