"""Times contestants in turns, and gives ratios of their times, and how they grow, with an interval."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


class Seconds(float):
    """The median of the seconds of every round; dividing by another contestant's gives a ``Ratio``."""

    rounds: tuple[float, ...]

    def __new__(cls, rounds: Sequence[float]) -> Seconds:
        made = super().__new__(cls, statistics.median(rounds))
        made.rounds = tuple(rounds)
        return made

    def __truediv__(self, other: float) -> float:
        return Ratio(self, other) if isinstance(other, Seconds) else float(self) / other


class Ratio(float):
    """A ratio of two medians with its 95 % interval, a bootstrap of the rounds.

    Rounds are drawn in pairs where both had as many, since the machine drifts between them; one round has no spread.
    """

    interval: tuple[float, float]

    def __new__(cls, above: Seconds, below: Seconds, draws: int = 2000) -> Ratio:
        made = super().__new__(cls, float(above) / float(below))
        rng = random.Random(0)
        paired = len(above.rounds) == len(below.rounds)
        ratios = []
        for _ in range(draws):
            some = rng.choices(range(len(above.rounds)), k=len(above.rounds))
            others = some if paired else rng.choices(range(len(below.rounds)), k=len(below.rounds))
            ratios.append(
                statistics.median(above.rounds[i] for i in some) / statistics.median(below.rounds[i] for i in others)
            )
        ratios.sort()
        made.interval = (ratios[int(0.025 * draws)], ratios[int(0.975 * draws) - 1])
        return made


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
