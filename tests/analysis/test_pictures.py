"""Pictures of views and of snapshots, against the pixels that they are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from made_runs import draw_log, write_run
from PIL import Image

from hardlab import build, recipes
from hardlab.analysis import pictures, schema, tables, viewlog
from hardlab.types import Batch

pytestmark = pytest.mark.usefixtures("no_data_sets")


class Grey:
    """Images whose pixels are all their own index; as much of ``Images`` as pictures need."""

    def digest(self) -> str:
        return "d1"

    def batches(self, order: torch.Tensor) -> Any:
        for rows in order:
            raw = (rows % 256).to(torch.uint8)[:, None, None, None].expand(-1, 3, 32, 48)
            yield Batch(raw.contiguous(), torch.tensor([[32, 48]]).expand(len(rows), 2), rows)


def test_pictures_show_the_logged_images_and_vanish_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    frame = draw_log(12, 1, 0).to_pandas()
    neutral = {f"{s}_{k}": 1.0 for s in "ab" for k in ("brightness", "contrast", "saturation")}
    frame = frame.assign(**neutral, a_hue=0.0, b_hue=0.0)
    write_run(tmp_path / "runs", "simsiam-hvs", 0, pa.Table.from_pandas(frame, viewlog.SCHEMA, preserve_index=False))
    monkeypatch.setattr(build, "images", lambda *_, **__: Grey())
    tables.collect(tmp_path / "runs", tmp_path)
    rows = schema.read(tmp_path, "hvs_f2").drop_duplicates("row")
    strip = np.asarray(Image.open(tmp_path / "hvs_f2_pixels.png"))
    size = strip.shape[1] // 5
    assert len(rows) == pictures.PICTURES == strip.shape[0] / size
    for row, index in zip(rows["row"], rows["index"], strict=True):
        middle = strip[row * size + size // 4, size // 2 :: size, 0]
        assert np.abs(middle.astype(int) - index % 256).max() <= 1
    monkeypatch.setattr(Grey, "digest", lambda _: "other data")
    tables.collect(tmp_path / "runs", tmp_path)
    assert not (tmp_path / "hvs_f2_pixels.png").exists()


def test_snapshots_become_tiles_and_a_layout_of_negatives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fewer = write_run(tmp_path / "runs", "ppcl", 1, None) / "snapshots"  # a seed that kept one snapshot alone
    fewer.mkdir()
    np.savez(fewer / "generated-00000080.npz", **dict.fromkeys(("g", "g_ema"), np.full((4, 3, 8, 8), 7, np.uint8)))
    generated = write_run(tmp_path / "runs", "ppcl", 0, None) / "snapshots"
    generated.mkdir()
    for step in (40, 80):
        nets = {name: np.full((4, 3, 8, 8), step + add, np.uint8) for name, add in (("g", 0), ("g_ema", 9))}
        np.savez(generated / f"generated-{step:08d}.npz", **nets)
    learned = write_run(tmp_path / "runs", "adco", 0, None) / "snapshots"
    learned.mkdir()
    (tmp_path / "empty").mkdir()
    queries, negatives = (rng.normal(size=(n, 5)) for n in (24, 30))
    queries, negatives = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, negatives))
    kept = {"queries": queries, "negatives": negatives, "query_rows": np.arange(24)}
    np.savez(learned / "adco-00000040.npz", **kept | {"negatives": queries})
    np.savez(learned / "adco-00000080.npz", **kept)
    attacked = write_run(tmp_path / "runs", "hexa-plus-moco", 0, None) / "snapshots"
    attacked.mkdir()
    kinds = {"clean": 0.2, "adversarial": 0.4, "noise": 0.6}
    np.savez(attacked / "adversarial-00000080.npz", **{k: np.full((8, 3, 8, 8), v) for k, v in kinds.items()})
    np.savez(attacked / "cutmix-00000080.npz", mixed=np.full((8, 3, 8, 8), 0.8))
    tables.collect(tmp_path / "runs", tmp_path / "out")

    views = np.asarray(Image.open(tmp_path / "out" / "hexa_f1_pixels.png"))
    assert [int(v) for v in views[4, 4::8, 0]] == [51, 102, 153, 204]
    assert schema.read(tmp_path / "out", "hexa_f1")["label"].tolist()[:4] == [*kinds, "mixed"]
    picture = np.asarray(Image.open(tmp_path / "out" / "ppcl_f6_pixels.png"))
    assert picture.shape == (6 * 8, 2 * 8, 3)
    assert [int(v) for v in picture[[4, 12], 4, 0]] == [40, 49]
    assert [int(v) for v in picture[[4, 12], 12, 0]] == [80, 89]
    labels = schema.read(tmp_path / "out", "ppcl_f6")
    assert labels[labels["tile"] == 1]["label"].tolist() == ["G", "average of G"] * 3
    half = recipes.recipe("ppcl", "smoke").epochs / 2
    assert labels.groupby("tile")["epoch"].first().tolist() == [half, 2 * half]
    layout = schema.read(tmp_path / "out", "adco_f2")
    assert layout["kind"].value_counts().to_dict() == {"negative": 30, "query": 24}
    nearest = [1 - max(n @ q for q in queries) for n in negatives]
    distances = layout.loc[layout["kind"] == "negative", "distance"]
    np.testing.assert_allclose(sorted(distances), sorted(nearest), rtol=1e-4)
    nearest = [1 - max(n @ q for n in negatives) for q in queries]
    distances = layout.loc[layout["kind"] == "query", "distance"]
    np.testing.assert_allclose(sorted(distances), sorted(nearest), rtol=1e-4)
    scores = schema.read(tmp_path / "out", "negatives")
    length = recipes.recipe("adco", "smoke").epochs
    assert scores["step"].tolist() == [40, 80] and scores["epoch"].tolist() == [length / 2, length]
    gaps = [min(np.linalg.norm(q - p) for j, p in enumerate(queries) if j != i) for i, q in enumerate(queries)]
    far = [min(np.linalg.norm(n - q) for q in queries) for n in negatives]
    assert scores["share"].tolist() == pytest.approx([0, np.mean(np.array(far) > np.quantile(gaps, 0.95))], rel=1e-4)
    assert scores["distance"].tolist() == pytest.approx([0, np.median(far)], abs=1e-4)
    assert scores["false_all"].isna().all()  # the run has no checkpoint to put real images beside its negatives
    tables.collect(tmp_path / "empty", tmp_path / "out", add=True)
    pd.testing.assert_frame_equal(schema.read(tmp_path / "out", "negatives"), scores)
