"""Estimated times against recorded ratios and a hand-made schedule."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from made_steps import RATES, STEPS, step

from hardlab.workbook import costs

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
