"""What the tests of exact resume share: a run that is stopped and taken up again, beside one that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_runs import small_run

from hardlab import checkpoint, meters, run_folder, stopping, train
from hardlab.config import Run

TIMING = ("seconds", "images_per_s", "peak_memory_mb")


def quick(name: str = "simsiam-hvs", **more: Any) -> Run:
    """A small run with everything logged, in the precision of the machine."""
    logged = {"logs.views_every": 2, "logs.views_rows": 16}
    return small_run(name, **{"precision": "auto", **logged, **more})


def stopping_at(*steps: int) -> Callable[[Any], None]:
    """A stand-in for the progress line that asks the process to stop after the given numbers of steps."""
    done = []

    def tick(self):
        self.done += 1
        done.append(1)
        if len(done) in steps:
            os.kill(os.getpid(), signal.SIGTERM)

    return tick


def whole_and_parts(
    run: Run, folder: Path, patch: pytest.MonkeyPatch, *steps: int, parts: str = "parts"
) -> tuple[Path, Path]:
    """The run trained without a stop, and stopped after each of ``steps`` (counted from 1) and resumed to its end."""
    how: dict[str, Any] = {"device": "cpu", "say": lambda line: None}
    whole = train.train(run, folder / "whole", **how)
    patch.setattr(meters.Rate, "tick", stopping_at(*steps))
    for _ in steps:
        with pytest.raises(stopping.Stopped):
            train.train(run, folder / parts, **how)
        assert run_folder.manifest(folder / parts / run.id)["state"] == "stopped"
    return whole, train.train(run, folder / parts, **how)


def learned(path: Path) -> dict[str, Any]:
    """The last checkpoint."""
    return checkpoint.load(checkpoint.listed(path / "checkpoints")[0])


def rows(path: Path) -> list[dict[str, Any]]:
    """What was logged, but for the times."""
    return [{k: v for k, v in r.items() if k not in TIMING} for r in run_folder.metrics(path)]


def same(a: Any, b: Any) -> bool:
    """Bitwise, but for the seconds that a state counts."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if not str(k).startswith("seconds:"))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def views(path: Path) -> pa.Table:
    """The view log."""
    return pq.read_table(path / "views")
