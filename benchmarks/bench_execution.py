"""How the networks of a step run best on this machine: as they are written, compiled, or replayed as CUDA graphs.

``python -m benchmarks.bench_execution --out FOLDER [--seconds 60] [--rung gpu]`` appends its rows to bench.jsonl in the
folder; what is not compiled in time is a row that says so. All contestants get ready at once, then take turns.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hardlab.errors import HardlabError
from hardlab.workbook import bench

MEASURING_S = 20.0  # of the budget, for the turns
EXECUTIONS = ("eager", "compile", "graphs")
# recipe, rung, a setting with its values, whether the parts of a step are measured
FIELD: tuple[tuple[str, str, str, tuple[Any, ...], bool], ...] = (
    ("simsiam", "gpu", "execution", EXECUTIONS, False),
    ("simsiam", "cpu", "execution", ("eager", "graphs"), False),  # a small network, whose steps are mostly launches
    ("simsiam", "gpu", "channels_last", (True, False), False),
    ("adco", "gpu", "execution", ("eager", "graphs"), False),
    ("simsiam-hvs", "gpu", "execution", ("eager",), True),
)


def entered(rung: str, steps: int) -> list[list[bench.Contestant]]:
    """The contestants, in groups that are compared. rung: instead of gpu, for a rehearsal."""
    groups: list[list[bench.Contestant]] = []
    for i, (recipe, usual, key, values, profile) in enumerate(FIELD):
        group = bench.contestants(recipe, rung if usual == "gpu" else usual, {}, steps, (key, values), profile)
        for contestant in group:
            contestant.group = i
        groups.append(group)
    return groups


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which it ends by itself")
    parser.add_argument("--rung", default="gpu", help="smoke: a rehearsal without a GPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(argv)
    steps, rounds = (10, 5) if given.rung == "gpu" else (1, 2)
    groups = entered(given.rung, bench.WARM + steps * rounds)
    everyone = [contestant for group in groups for contestant in group]
    ready_s = max(given.seconds / 2, given.seconds - MEASURING_S)
    bench.measure(everyone, given.device, given.threads, steps, rounds, ready_s, given.seconds - 2)
    bench.write(given.out, everyone)
    for group in groups:
        print(bench.describe(group), end="\n\n", flush=True)
    return int(all(contestant.error for contestant in everyone))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HardlabError as e:
        sys.exit(f"benchmarks: {e}")
