"""Folders of runs that were never trained: a manifest and one accuracy."""

from __future__ import annotations

import json
from pathlib import Path

from hardlab import recipes


def folder_of(runs: Path, recipe: str, seed: int, value: float | None, **about: object) -> Path:
    run = recipes.recipe(recipe, "smoke", {"seed": seed})
    folder = runs / run.id
    folder.mkdir(parents=True)
    manifest = {
        "id": run.id, "config": run.model_dump(mode="json"), "state": "done", "seed": seed, "precision": "fp32",
        "data": {"name": "shapes", "split": "train", "count": 321, "digest": "abc"}, "epochs_done": run.epochs,
        "started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:03:00+00:00", "commit": "0123", "dirty": True,
        "device": "some processor", "versions": {"torch": "2.0"}, "health": [],
    } | about  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if value is not None:
        row = {"protocol": "knn", "metric": "top1@k=20", "value": value, "features": "backbone", "data": "shapes",
               "split": "test", "run": run.id, "options": {}}  # fmt: skip
        (folder / "results.jsonl").write_text(json.dumps(row) + "\n")
    return folder
