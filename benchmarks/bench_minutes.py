"""Images per second of each arm of the README's table, trained by itself: the page turns them into minutes a run.

The runs behind the table shared their machines with others. These turns are taken one after the other, with all cores,
by the trainer as it is, on built-in images of the same size.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

from benchmarks.bench_growth import QUIET, busy, kind_of
from benchmarks.timing import skipped
from hardlab.analysis import claims
from hardlab.workbook import bench, pages

RUNG, STEPS, ROUNDS = "cpu", 5, 7


def arms(data_dir: Path = pages.ROOT / "figures" / "data") -> list[str]:
    """The recipes behind the headlines that are trained at rung cpu."""
    levels = claims.levels(data_dir, claims.verdicts(data_dir))
    return list(dict.fromkeys(level.name for level in levels if level.rung == RUNG and level.epochs))


def run() -> list[dict[str, Any]]:
    """A row for each arm; ``others`` is the share of all cores that other programs took."""
    kind = kind_of("cpu")
    out = []
    for recipe in arms():
        own, before, start = _own(), busy(), time.perf_counter()
        (about,) = entered = bench.contestants(recipe, RUNG, {}, STEPS, None, profile=False)
        bench.measure(entered, "cpu", steps=STEPS, rounds=ROUNDS)
        seconds, after = time.perf_counter() - start, busy()
        name = f"{pages.ALONE}{recipe}, rung {RUNG}, {kind}"
        if about.error:
            out.append(skipped(name, about.error))
            continue
        taken = 0.0 if before is None or after is None else after - before - (_own() - own)
        others = max(0.0, taken / seconds / (os.cpu_count() or 1))
        images, _ = bench.rate(about)
        out.append({"name": name, "value": images, "unit": "images/s", "peer": None, "target": None,
                    "ok": others <= QUIET, "others": round(others, 3)})  # fmt: skip
    return out


def _own() -> float:
    """Seconds of processor time of this process and of those it started that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
