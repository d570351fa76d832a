"""The race to an accuracy: what its rows say, what it keeps, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from hardlab import cli
from hardlab.workbook import race, race_libraries

GIVEN = {"data": "digits", "network": "tiny", "batch": 32, "budget": 0.2, "target": 99.0, "precision": "fp32"}


def made(library: str, seed: int, curve: list[tuple[int, float, float]], step: float = 0.1) -> dict[str, Any]:
    settings = {"network": "tiny", "batch": 100, "target": 40.0, "budget": 60.0, "precision": "fp32", "threads": 1}
    points = [dict(zip(("images", "seconds", "accuracy"), point)) for point in curve]
    return {"library": library, "version": "1", "seed": seed, "settings": settings, "curve": points, "step_s": step,
            "trained_s": 60.5, "trained_images": 9000, "machine": "M"}  # fmt: skip


def test_the_target_is_reached_between_the_two_checkpoints_around_it() -> None:
    run = made("hardlab", 0, [(0, 0.0, 0.30), (1000, 10.0, 0.36), (2000, 30.0, 0.46)])
    assert race.reached(run) == pytest.approx((1400, 18.0))


def test_a_target_that_no_checkpoint_has_is_told_with_the_time_spent_and_never_made_up() -> None:
    runs = [made("hardlab", 0, [(0, 0.0, 0.3), (1000, 10.0, 0.5)]), made("lightly", 0, [(0, 0.0, 0.3)])]
    assert race.reached(runs[1]) is None
    own, peer = race.summary(runs)
    assert own["seconds"] == pytest.approx([5.0]) and peer["seconds"] == peer["images"] == peer["arithmetic"] == [None]
    line = race.describe(runs).splitlines()[-1]
    assert line.startswith("lightly 1") and "not reached by 1 of 1" in line and line.endswith("; trained for 60 s")


def test_seconds_of_arithmetic_are_those_of_the_steps_to_the_target() -> None:
    (side,) = race.summary([made("hardlab", 0, [(0, 0.0, 0.3), (1000, 10.0, 0.5)], step=0.25)])
    assert side["arithmetic"] == pytest.approx([500 / 100 * 0.25])
    assert side["rate"] == pytest.approx([9000 / 60.5])


def test_the_ratio_is_of_pairs_of_one_seed() -> None:
    runs = [made(name, seed, [(0, 0.0, 0.3), (1000, slow * 10.0 * (seed + 1), 0.5)])
            for seed in (0, 1, 2) for name, slow in (("lightly", 2 + seed), ("hardlab", 1))]  # fmt: skip
    assert (
        race.describe(runs).splitlines()[-1]
        == "lightly needs 3.00 (2.00 to 4.00, 3 seeds) times the seconds of hardlab"
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([3.0, 1.0, 2.0], "2.0 (1.0 to 3.0, 3 seeds)"),
        ([3.0, None, 2.0], "3.0 (2.0 to not reached, 3 seeds)"),
        ([3.0, None], "not reached by 1 of 2"),
    ],
)
def test_a_median_counts_a_seed_that_did_not_reach_the_target_as_slower_than_all(
    values: list[float | None], text: str
) -> None:
    assert race.spread(values) == text


def test_a_second_call_trains_only_the_seeds_that_are_missing_and_libraries_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def measured(task: Any, test: Any, name: str, seed: int, budget: float, target: float) -> dict[str, Any]:
        done.append((name, seed))
        return {
            "trained_s": 1.0,
            "trained_images": 10,
            "step_s": 0.1,
            "curve": [{"images": 0, "seconds": 0, "accuracy": 0.1}],
        }

    monkeypatch.setattr(race_libraries, "race", measured)
    for seeds in (1, 3):
        rows = race.run(GIVEN, ["lightly"], seeds, out=tmp_path / "a" / "b", say=lambda line: None)
    assert done == [("hardlab", 0), ("lightly", 0), ("lightly", 1), ("hardlab", 1), ("hardlab", 2), ("lightly", 2)]
    assert len(rows) == 6 and len((tmp_path / "a" / "b" / race.RUNS).read_text().splitlines()) == 6
    race.run({**GIVEN, "batch": 16}, [], 1, out=tmp_path / "a" / "b", say=lambda line: None)
    assert len(done) == 7, "another batch is another race"


def test_a_race_ends_by_itself_before_the_time_that_it_is_given(tmp_path: Path) -> None:
    said: list[str] = []
    rows = race.run(GIVEN, [], 50, out=tmp_path, until=0.5, say=said.append)
    assert 1 <= len(rows) < 50 and said[-1].endswith("would end later than 0.5 s and is not begun.")
    assert rows[0]["trained_s"] >= GIVEN["budget"] and rows[0]["curve"][0]["images"] == 0
    assert rows[0]["settings"]["threads"] == torch.get_num_threads()


def test_a_library_that_is_not_installed_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "lightly" else find(name, *rest)
    )
    out = CliRunner().invoke(cli.cli, ["race", "--out", str(tmp_path / "r")])
    assert out.exit_code == 2
    assert out.output.splitlines()[-1] == "Error: lightly is not installed: `pip install 'hardlab[bench]'` adds it."
    assert not (tmp_path / "r").exists()
