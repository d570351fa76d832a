"""Ratios of the times of contestants that took turns, each with an interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence


class Seconds(float):
    """The median of the seconds of every round; dividing by another contestant's gives a ``Ratio``."""

    rounds: tuple[float, ...]

    def __new__(cls, rounds: Sequence[float]) -> Seconds:
        made = super().__new__(cls, statistics.median(rounds))
        made.rounds = tuple(rounds)
        return made

    def __truediv__(self, other: float) -> float:
        return Ratio(self, other) if isinstance(other, Seconds) else float(self) / other

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the median, a bootstrap of the rounds."""
        return Ratio(self, Seconds([1.0])).interval


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
