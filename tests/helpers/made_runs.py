"""Run folders and view logs as the trainer writes them, made up."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import torch

from hardlab import recipes
from hardlab.analysis import viewlog
from hardlab.views import PARAMS, PRESETS, Look

PAIRS = list(itertools.combinations(range(4), 2))


def draw_log(
    images: int, epochs: int, seed: int, pairs: list[tuple[int, int]] = PAIRS, lean: float = 0.003
) -> pa.Table:
    """A view log as the trainer writes it: random crops of 32 x 48 images, easier by ``lean`` a shared pixel."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {name: [] for name in viewlog.SCHEMA.names}
    for epoch in range(epochs):
        for image in rng.permutation(1000)[:images]:
            crops = []
            for _ in range(1 + max(max(p) for p in pairs)):
                height, width = rng.integers(6, 33), rng.integers(6, 49)
                crop = dict.fromkeys(viewlog.PARAMS, 0.0)
                crop |= {"image_h": 32, "image_w": 48, "height": height, "width": width}
                crop |= {"top": rng.integers(0, 33 - height), "left": rng.integers(0, 49 - width)}
                crop |= {
                    "brightness": rng.uniform(0.6, 1.4),
                    "contrast": 1.0,
                    "saturation": 1.0,
                    "hue": rng.uniform(-0.1, 0.1),
                }
                crops.append(crop)
            losses = [rng.normal() - lean * overlap(crops[a], crops[b]) for a, b in pairs]
            for c, (a, b) in enumerate(pairs):
                row = {"epoch": epoch, "step": 10 * epoch, "index": image, "candidate": c, "a": a, "b": b}
                row |= {"loss": losses[c], "chosen": c == int(np.argmax(losses))}
                row |= {f"{s}_{k}": v for s, crop in (("a", crops[a]), ("b", crops[b])) for k, v in crop.items()}
                for name, value in row.items():
                    rows[name].append(value)
    return pa.table({f.name: pa.array(rows[f.name]).cast(f.type) for f in viewlog.SCHEMA})


def overlap(a: Any, b: Any) -> float:
    """Shared pixels of two boxes."""
    sides = (
        max(0, min(a[at] + a[by], b[at] + b[by]) - max(a[at], b[at]))
        for at, by in (("top", "height"), ("left", "width"))
    )
    return float(np.prod(list(sides)))


def loop_iou(a: Any, b: Any) -> float:
    """Overlap of two boxes on whole pixels, counted pixel by pixel."""
    cells = []
    for box in (a, b):
        top, left, height, width = (int(box[k]) for k in ("top", "left", "height", "width"))
        cells.append({(y, x) for y in range(top, top + height) for x in range(left, left + width)})
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def write_run(
    runs_dir: Path,
    recipe: str,
    seed: int,
    log: pa.Table | None,
    state: str = "done",
    segments: int = 2,
    changes: dict[str, Any] | None = None,
    **results: float,
) -> Path:
    """A run folder with the files of docs/architecture.md, as far as tables are made from them."""
    run = recipes.recipe(recipe, "smoke", {"seed": seed, **(changes or {})})
    path = runs_dir / run.id
    (path / "views").mkdir(parents=True)
    data = {"name": run.data.name, "split": "train", "count": 1000, "digest": "d1", "skipped": []}
    manifest = {"config": run.model_dump(mode="json"), "id": run.id, "state": state, "data": data, "seed": seed}
    manifest |= {"started": f"2025-01-01T00:00:{seed:02d}+00:00", "epochs_done": run.epochs, "steps_done": 80}
    manifest |= {"images_per_s": 100.0, "peak_memory_mb": 50.0, "device": "a machine"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    lines = []
    for epoch in range(run.epochs):
        numbers = [{"loss": 3.0 - epoch + s, "std": 0.1 * s, "terms": {"base": 1.0}, "lr": {}} for s in (0, 1)]
        lines += [{"kind": "step", "step": 2 * epoch + s, "epoch": epoch} | n for s, n in enumerate(numbers)]
        whole = {"loss": 3.5 - epoch, "terms": {"base": 3.5 - epoch}, "seconds": {"total": 2.0 + epoch, "step": 1.0}}
        lines.append({"kind": "epoch", "step": 2 * epoch + 2, "epoch": epoch, "knn": 0.3 + 0.01 * epoch} | whole)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = {"protocol": "linear", "metric": "top1-last", "value": 0.5, "features": "backbone", "data": run.data.name}
    curve |= {"split": "test", "options": {}, "step": 40, "epoch": run.epochs / 2}
    of_epoch = [curve | {"classifier_epoch": 3, "metric": metric} for metric in ("top1", "top5")]
    (path / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (curve, *of_epoch)))
    if log is not None:
        for epochs in np.array_split(sorted(set(log["epoch"].to_pylist())), segments):
            part = log.filter(pa.compute.is_in(log["epoch"], pa.array(epochs, pa.int32())))
            if part.num_rows:
                pa.parquet.write_table(part, path / "views" / f"step-{10 * epochs[-1]:08d}.parquet", compression="zstd")
    with open(path / "results.jsonl", "w") as f:
        metrics = {"knn": "top1@k=20", "linear": "top1-last", "linear-lbfgs": "top1"}
        for key, value in results.items():
            features, _, protocol = key.replace("_", "-").partition("-")
            row = {"protocol": protocol, "metric": metrics[protocol], "value": value, "features": features}
            row |= {"data": run.data.name, "split": "test", "n_train": 100, "n_test": 100, "seed": seed, "run": run.id}
            f.write(json.dumps(row | {"recipe": recipe, "rung": "smoke", "cost_s": 1.0, "options": {}}) + "\n")
    return path


def choice_log(images: int, seed: int, choose: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> pd.DataFrame:
    """A view log of 4 views and 6 pairs an image, drawn as in training; ``choose`` maps the IoUs (G,6) to a pair."""
    torch.manual_seed(seed)
    drawn = Look(PRESETS["simsiam_cifar"], (0.5,) * 3, (0.25,) * 3).draw(torch.full((images, 2), 32), 4).numpy()
    rows = []
    for c, (a, b) in enumerate(itertools.combinations(range(4), 2)):
        columns = {f"a_{p}": drawn[:, a, j] for j, p in enumerate(PARAMS)}
        columns |= {f"b_{p}": drawn[:, b, j] for j, p in enumerate(PARAMS)}
        rows.append(pd.DataFrame({"epoch": 0, "step": 1, "index": np.arange(images), "candidate": c, "a": a, "b": b,
                                  "loss": 0.0, "chosen": False, **columns}))  # fmt: skip
    frame = viewlog.metrics(pd.concat(rows, ignore_index=True))
    ious = frame["iou"].to_numpy().reshape(6, images).T
    chosen = choose(ious, np.random.default_rng(seed))
    frame["chosen"] = frame["candidate"].to_numpy() == np.tile(chosen, 6)
    return frame.sample(frac=1, random_state=0)  # whatever the order of the rows
