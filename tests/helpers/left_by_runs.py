"""Folders as the trainer leaves them, for tests of what packs and merges them."""

from __future__ import annotations

import json
import os
from pathlib import Path


def finished(folder: Path, name: str, protocols: tuple[str, ...] = ("knn",), **about: object) -> Path:
    """A run as the trainer leaves it, with weights that nobody may pack."""
    run = folder / name
    for part in ("views", "checkpoints", "features"):
        (run / part).mkdir(parents=True)
        (run / part / f"{part}.parquet").write_bytes(os.urandom(20_000))
    (run / "manifest.json").write_text(json.dumps({"state": "done", "commit": "unknown"} | about))
    (run / "metrics.jsonl").write_text('{"kind": "step"}\n')
    (run / "results.jsonl").write_text("".join(json.dumps({"protocol": p}) + "\n" for p in protocols))
    return run
