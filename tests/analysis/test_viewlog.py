"""The view log and the metrics of its pairs, against loops and counted pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from made_runs import loop_iou, write_run

from hardlab import views
from hardlab.analysis import iou, viewlog
from hardlab.types import HardlabError


def test_reading_gives_back_every_row_of_every_segment_in_the_contracts_columns(log: pa.Table, tmp_path: Path) -> None:
    run = write_run(tmp_path, "simsiam-hvs", 0, log, segments=3)
    frame = viewlog.read(run)
    assert list(frame.columns) == ["run", *viewlog.SCHEMA.names]
    pd.testing.assert_frame_equal(frame.drop(columns="run"), log.to_pandas())
    assert set(frame["run"]) == {run.name}
    assert viewlog.read(run, ["loss", "chosen"]).columns.tolist() == ["run", "loss", "chosen"]


def test_reading_two_runs_keeps_them_apart(log: pa.Table, tmp_path: Path) -> None:
    first, second = write_run(tmp_path, "simsiam-hvs", 0, log), write_run(tmp_path, "simsiam-hvs", 1, log)
    share = iou.lowest_iou_share(viewlog.read([first, second]))
    alone = iou.lowest_iou_share(viewlog.read(second))
    pd.testing.assert_frame_equal(
        share[share["run"] == second.name].reset_index(drop=True).assign(run=second.name), alone.assign(run=second.name)
    )


def test_a_run_without_a_view_log_is_told_apart_from_an_empty_one(tmp_path: Path) -> None:
    run = write_run(tmp_path, "simsiam", 0, None)
    with pytest.raises(HardlabError, match=r"no view log.*views/step"):
        viewlog.read(run)


def test_segments_that_are_cut_off_or_lack_a_column_are_named(log: pa.Table, tmp_path: Path) -> None:
    run = write_run(tmp_path, "simsiam-hvs", 0, log)
    whole = sorted((run / "views").iterdir())[0]
    (run / "views" / "step-00000098.parquet").write_bytes(whole.read_bytes()[:-200])
    pa.parquet.write_table(log.drop_columns(["a_hue"]), run / "views" / "step-00000099.parquet")
    with pytest.raises(
        HardlabError, match=r"2 of the 4 .*step-00000098.parquet \(broken.*step-00000099.parquet.*'a_hue'"
    ):
        viewlog.read(run)


def test_an_unknown_column_is_refused_with_what_there_is(log: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(HardlabError, match=r"no column 'los'.*loss"):
        viewlog.read(write_run(tmp_path, "simsiam-hvs", 0, log), ["los"])


def test_iou_equals_counted_pixels(log: pa.Table) -> None:
    frame = viewlog.metrics(log.to_pandas())
    for row in frame.head(60).to_dict("records"):
        a, b = ({k: row[f"{s}_{k}"] for k in ("top", "left", "height", "width")} for s in "ab")
        assert row["iou"] == pytest.approx(loop_iou(a, b), abs=1e-12)


def test_pair_metrics_agree_with_those_of_the_views_module(log: pa.Table) -> None:
    frame = viewlog.metrics(log.to_pandas())
    a, b = (torch.from_numpy(frame[[f"{s}_{p}" for p in views.PARAMS]].to_numpy(np.float32).copy()) for s in "ab")
    for name in ("iou", "centre_distance", "colour_distance"):
        np.testing.assert_allclose(frame[name], getattr(views, name)(a, b), rtol=1e-4, atol=1e-6)


def test_centres_at_two_corners_of_the_image_are_a_diagonal_apart_but_for_the_crops_own_size() -> None:
    box = {"image_h": 30, "image_w": 40, "height": 2, "width": 2}
    a, b = box | {"top": 0, "left": 0}, box | {"top": 28, "left": 38}
    row = {f"{s}_{k}": float(v) for s, c in (("a", a), ("b", b)) for k, v in c.items()}
    assert viewlog.metrics(pd.DataFrame([row]))["centre_distance"].item() == pytest.approx(np.hypot(28, 38) / 50)


def test_slots_lists_each_view_once_and_marks_the_two_that_were_selected(log: pa.Table) -> None:
    frame = log.to_pandas().assign(run="r")
    each = viewlog.slots(frame)
    assert len(each) == 120 * 4
    for _, rows in each.groupby(["epoch", "index"]):
        assert rows["slot"].tolist() == [0, 1, 2, 3]
        assert rows["chosen"].sum() == 2
    image = frame[(frame["epoch"] == 0) & (frame["index"] == frame["index"][0])]
    pair = image[image["chosen"]].iloc[0]
    view = each[(each["epoch"] == 0) & (each["index"] == pair["index"]) & (each["slot"] == pair["b"])].iloc[0]
    assert all(view[p] == pair[f"b_{p}"] for p in viewlog.PARAMS)
