"""Times contestants in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hardlab.workbook.timing import Ratio as Ratio
from hardlab.workbook.timing import Seconds as Seconds


def interleaved(turns: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Seconds], dict[str, Any]]:
    """Seconds and last answer of each contestant, after one warm-up turn each."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    answers = {name: turn() for name, turn in turns.items()}
    for i in range(rounds):
        for name in list(turns)[:: 1 if i % 2 == 0 else -1]:
            start = time.perf_counter()
            answers[name] = turns[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: Seconds(s) for name, s in seconds.items()}, answers


def skipped(name: str, why: str = "this processor has no bfloat16 arithmetic") -> dict[str, Any]:
    """The row of a contestant that cannot be measured on this machine."""
    return {"name": name, "value": None, "unit": "", "peer": "", "target": None, "ok": None, "skipped": why}
