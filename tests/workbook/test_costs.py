"""Estimated times against recorded ratios and a hand-made schedule."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from made_steps import RATES, STEPS, step

from hardlab import recipes
from hardlab.errors import HardlabError
from hardlab.workbook import costs

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu" / "nvidia-h200.json"

pytestmark = pytest.mark.usefixtures("book")


def test_an_estimate_is_the_recorded_ratios_times_what_was_measured() -> None:
    assert costs.estimate(STEPS[0], RATES) == pytest.approx(100 * 2 * 0.1 + 500 * 0.01)
    assert costs.estimate(STEPS[2], RATES) == pytest.approx(1000 * 0.01)
    unknown = step("d", recipe="moco", steps=10)
    assert costs.estimate(unknown, RATES) == pytest.approx(10 * 3 * 0.1 + 5)  # the median of what is recorded
    assert costs.estimate(STEPS[0], None) == 0


def test_a_job_may_take_three_times_its_estimate_and_memory_by_its_threads() -> None:
    assert costs.limits(STEPS[0], RATES) == {
        "mem_mb": costs.MEMORY_MB,
        "runtime": 12,
    }  # 25 s, of which three times is 2 min
    wide = dataclasses.replace(STEPS[0], threads=8)
    assert costs.limits(wide, None) == {"mem_mb": 4 * costs.MEMORY_MB}


def test_the_time_of_the_whole_is_that_of_the_best_of_no_idle_workers() -> None:
    seconds = {"a": 5.0, "b": 3.0, "c": 2.0}
    assert costs.finish(STEPS, seconds, 2) == 7
    assert costs.finish(STEPS, seconds, 1) == 10
    assert costs.finish(STEPS[1:], seconds, 2, {"b": 1.5}) == 3.5
    free = [step(str(i)) for i in range(5)]
    for times in itertools.product((1.0, 2.0), repeat=5):
        took = {str(i): t for i, t in enumerate(times)}
        lanes = [0.0, 0.0]  # each next step goes to whoever is free first
        for t in times:
            lanes.sort()
            lanes[0] += t
        assert costs.finish(free, took, 2) == max(lanes)


def test_steps_behind_one_that_failed_are_not_waited_for() -> None:
    assert costs.finish([STEPS[2], step("d", "never.txt")], {"c": 2.0, "d": 1.0}, 2) == 2.0
    assert costs.finish([step("e", "e0.txt"), STEPS[2]], {"c": 2.0, "e": 1.0}, 1) == 3.0


@pytest.mark.parametrize("rung", ["gpu", "paper"])
def test_the_recorded_costs_are_those_of_the_recipes_as_they_are(rung):
    rows = costs.calculated()["rungs"][rung]
    assert rows.keys() == recipes.RECIPES.keys(), "run `python -m benchmarks.recipe_costs`"
    old = [name for name, row in rows.items() if row["hash"] != recipes.recipe(name, rung).hash]
    assert old == [], "their settings have changed: run `python -m benchmarks.recipe_costs`"


def test_gpu_hours_are_the_operations_of_a_training_at_the_measured_rate():
    measured = {r["recipe"]: r for r in json.loads(GPU.read_text())["rows"] if r["rate"].startswith("gpu/")}
    hours = {row["recipe"]: row["gpu_hours"] for row in costs.table("gpu")}
    for name in ("moco", "simsiam"):  # at the rung that was measured, simply images by images/s
        assert hours[name] == pytest.approx(200 * 50_000 / measured[name]["images_per_s"] / 3600, rel=0.01)
    book = costs.calculated()
    row = book["rungs"]["gpu"]["ppcl"]
    alone = costs.gpu_hours("ppcl", row["images"], row["flops"])
    assert hours["ppcl"] == pytest.approx(alone + hours["gan"])  # with its parent's


def test_recorded_costs_that_are_damaged_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "CALCULATED", tmp_path / "costs.json")
    for content in ("{", "[]", '{"rungs": {"paper": {"moco": {}}}, "rates": {}}'):
        (tmp_path / "costs.json").write_text(content)
        costs.calculated.cache_clear()
        with pytest.raises(HardlabError, match=r"'.*costs\.json' cannot be read, it is damaged"):
            costs.calculated()
    costs.calculated.cache_clear()
