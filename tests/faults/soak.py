"""A soak: short runs, one after the other in one process; memory, handles, threads and disk must stay flat.

``python tests/faults/soak.py [MINUTES]`` (60 by default) prints a line a minute and exits with 1 where something grew.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import torch

from hardlab import recipes, train
from hardlab.config import Run
from hardlab.evaluate.runner import evaluate_run
from hardlab.machine import keep_pages

WARM_UP = 0.25  # share of the time, and a round of all recipes at least, in which caches fill
RECIPES = ("simclr", "simsiam-hvs", "moco", "adco", "byol", "dino", "hnssl", "gan")
QUICK = {"data": {"name": "digits", "fraction": 0.1}, "batch_size": 32, "epochs": 2, "logs.step_every": 2}
# a heap fills what was freed differently each time, by some MiB; a leak of one batch a run passes that in minutes
MAY_GROW_MB, MAY_GROW_SHARE = 48.0, 0.05


class Use(NamedTuple):
    """Resident memory in MiB, open handles, threads (of the system's, and Python's), files left on disk."""

    memory: float
    handles: int
    threads: int
    python_threads: int
    files: int


def use(folder: Path) -> Use:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Use(
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        threading.active_count(),
        sum(len(files) for _, _, files in os.walk(folder)),
    )


def short_runs() -> Iterator[Run]:
    for seed, name in enumerate(cycle(RECIPES)):
        small = {} if name == "gan" else {"backbone": {"name": "tiny", "options": {"width": 4}}}
        more = {"hard.adco.size": 64} if name == "adco" else {}
        yield recipes.recipe(name, "smoke", QUICK | small | more | {"seed": seed})


def grown(before: Use, after: Use) -> list[str]:
    """What is larger than it was by more than its fluctuations, in words."""
    allowed = max(MAY_GROW_MB, MAY_GROW_SHARE * before.memory)
    limits = before._replace(memory=before.memory + allowed)
    return [
        f"{name}: {was:.0f} before, {now:.0f} after"
        for name, was, now, limit in zip(Use._fields, before, after, limits, strict=True)
        if now > limit
    ]


def soak(seconds: float, say=print) -> tuple[int, Use, Use]:
    """Train and evaluate short runs for so long; returns their number, and the use after the warm-up and at the end.

    Every run's folder is removed after it: what stays on disk stays of the package's own.
    """
    keep_pages()
    start = reported = time.monotonic()
    before, number = None, 0
    with tempfile.TemporaryDirectory(prefix="hardlab-soak-") as top:
        os.environ["HARDLAB_DATA"] = f"{top}/data"
        for number, run in enumerate(short_runs(), 1):
            path = train.train(run, Path(top) / "runs", device="cpu", say=lambda line: None)
            evaluate_run(path, ["knn"], device="cpu")
            shutil.rmtree(path)
            now = time.monotonic()
            round_done = number % len(RECIPES) == 0
            if before is None and round_done and now - start >= WARM_UP * seconds:
                before = use(Path(top))
            if now - reported >= 60:
                reported = now
                say(f"{(now - start) / 60:.0f} min, {number} runs: {use(Path(top))}")
            # whole rounds, so that the same recipe ran last
            if before is not None and round_done and now - start >= seconds:
                return number, before, use(Path(top))
    raise AssertionError("the recipes are endless")


def main() -> int:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    number, before, after = soak(60 * minutes, lambda line: print(line, flush=True))
    print(f"{number} runs in {minutes:g} minutes\nafter the warm-up: {before}\nat the end:        {after}")
    for line in (ill := grown(before, after)):
        print(f"grew: {line}")
    return 1 if ill else 0


if __name__ == "__main__":
    sys.exit(main())
