"""Times contestants in turns, and gives ratios of their times, and how they grow, with an interval."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from hardlab.workbook.timing import Ratio as Ratio
from hardlab.workbook.timing import Seconds as Seconds


class Exponent(float):
    """The slope of a straight line through logarithms, by least squares: y grows as x to its power.

    interval: of 95 %, a bootstrap of the rounds, each of which gave all sizes a turn. factor: the line's y at x = 1.
    """

    interval: tuple[float, float]
    factor: float

    def __new__(cls, sizes: Sequence[float], rounds: Sequence[Sequence[float]], draws: int = 2000) -> Exponent:
        """sizes: x. rounds: for each x its y in every round, as many for all."""
        made_by, factor = _line(sizes, [statistics.median(y) for y in rounds])
        made = super().__new__(cls, made_by)
        made.factor = factor
        rng = random.Random(0)
        number = len(rounds[0])
        slopes = []
        for _ in range(draws if number > 1 else 1):
            some = rng.choices(range(number), k=number)
            slopes.append(_line(sizes, [statistics.median(y[i] for i in some) for y in rounds])[0])
        slopes.sort()
        made.interval = (slopes[int(0.025 * len(slopes))], slopes[max(0, int(0.975 * len(slopes)) - 1)])
        return made


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The exponent and the factor of the line through logarithms."""
    at, of = [math.log(value) for value in x], [math.log(value) for value in y]
    slope, intercept = statistics.linear_regression(at, of)
    return slope, math.exp(intercept)


def interleaved(
    turns: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, Seconds], dict[str, Any]]:
    """Seconds and last answer of each contestant, after one warm-up turn each. clock: gives seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    answers = {name: turn() for name, turn in turns.items()}
    for i in range(rounds):
        for name in list(turns)[:: 1 if i % 2 == 0 else -1]:
            start = clock()
            answers[name] = turns[name]()
            seconds[name].append(clock() - start)
    return {name: Seconds(s) for name, s in seconds.items()}, answers


def skipped(name: str, why: str = "this processor has no bfloat16 arithmetic") -> dict[str, Any]:
    """The row of a contestant that cannot be measured on this machine."""
    return {"name": name, "value": None, "unit": "", "peer": "", "target": None, "ok": None, "skipped": why}
