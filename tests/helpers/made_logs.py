"""View logs of made-up runs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from hardlab.analysis import viewlog
from hardlab.views import PARAMS


def write_log(folder: Path, images: int, seed: int, views: int = 4) -> Path:
    """A run's view log of random squares in which the pair that is farthest apart in brightness is chosen."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((images, views, len(PARAMS))).astype(np.float32)
    drawn[..., :2], drawn[..., 2:4], drawn[..., 4:6] = 32, np.round(16 * drawn[..., 2:4]), 16
    candidates = list(itertools.combinations(range(views), 2))
    light = drawn[..., PARAMS.index("brightness")]
    loss = np.stack([abs(light[:, a] - light[:, b]) for a, b in candidates], 1) + 0.01 * rng.random((images, 1))
    rows = []
    for c, (a, b) in enumerate(candidates):
        columns = {"epoch": np.arange(images) // 50, "step": 1, "index": np.arange(images), "candidate": c}
        columns |= {"a": a, "b": b, "loss": loss[:, c], "chosen": loss.argmax(1) == c}
        columns |= {f"{s}_{p}": drawn[:, v, j] for s, v in (("a", a), ("b", b)) for j, p in enumerate(PARAMS)}
        rows.append(pd.DataFrame(columns))
    (folder / "views").mkdir(parents=True)
    table = pa.Table.from_pandas(pd.concat(rows), viewlog.SCHEMA, preserve_index=False)
    pa.parquet.write_table(table, folder / "views" / "step-00000001.parquet")
    return folder
