"""The overlap of the selected views, against loops and closed forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from made_runs import draw_log, loop_iou

from hardlab.analysis import iou, viewlog
from hardlab.types import HardlabError


def test_shares_means_and_control_per_epoch_equal_a_loop_over_images(log: pa.Table) -> None:
    frame = log.to_pandas().assign(run="r")
    share, mean, others = iou.lowest_iou_share(frame), iou.mean_iou(frame), iou.mean_iou(frame, "others")
    first = iou.mean_iou(frame, "first")
    for epoch in range(3):
        hits, chosen, rest, zero_one = [], [], [], []
        for _, image in frame[frame["epoch"] == epoch].groupby("index"):
            values = [
                loop_iou(*({k: r[f"{s}_{k}"] for k in ("top", "left", "height", "width")} for s in "ab"))
                for r in image.to_dict("records")
            ]
            at = image["chosen"].tolist().index(True)
            lowest = [v == min(values) for v in values]
            hits.append(lowest[at] / sum(lowest))
            chosen.append(values[at])
            rest.append((sum(values) - values[at]) / 5)
            zero_one.append(values[0])
        assert share.loc[epoch, "share"] == pytest.approx(np.mean(hits))
        assert mean.loc[epoch, "iou"] == pytest.approx(np.mean(chosen))
        assert others.loc[epoch, "iou"] == pytest.approx(np.mean(rest))
        assert first.loc[epoch, "iou"] == pytest.approx(np.mean(zero_one))
    assert (share["chance"] == 1 / 6).all()
    assert (share["images"] == 40).all()


def test_the_distance_of_the_centres_is_averaged_as_the_overlap_is(log: pa.Table) -> None:
    frame = log.to_pandas().assign(run="r")
    chosen, others = (iou.mean_iou(frame, views, "centre_distance") for views in ("chosen", "others"))  # type: ignore[arg-type]
    for epoch in range(3):
        pair, rest = [], []
        for r in frame[frame["epoch"] == epoch].to_dict("records"):
            x, y = (
                [r[f"{s}_{at}"] + r[f"{s}_{side}"] / 2 for s in "ab"]
                for at, side in (("left", "width"), ("top", "height"))
            )
            apart = np.hypot(x[0] - x[1], y[0] - y[1]) / np.hypot(r["a_image_h"], r["a_image_w"])
            (pair if r["chosen"] else rest).append(apart)
        assert chosen.loc[epoch, "centre_distance"] == pytest.approx(np.mean(pair))
        assert others.loc[epoch, "centre_distance"] == pytest.approx(np.mean(rest))
    assert list(chosen.columns) == ["run", "epoch", "images", "centre_distance"]


def test_a_tie_for_the_lowest_iou_counts_the_chance_to_break_it_right() -> None:
    frame = pd.DataFrame(
        {"run": "r", "epoch": 0, "step": 0, "index": np.repeat([1, 2, 3], 3), "candidate": [0, 1, 2] * 3}
        | {"iou": [0, 0, 1, 0, 0, 0, 0.5, 0.2, 0.3], "chosen": np.arange(9) == np.array([0, 0, 0, 4, 4, 4, 6, 6, 6])}
    )
    result = iou.lowest_iou_share(frame).iloc[0]
    assert result["share"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert result["tied"] == pytest.approx(2 / 3)


def test_where_all_crops_are_disjoint_any_selection_scores_exactly_chance() -> None:
    g = 50
    frame = pd.DataFrame({"run": "r", "epoch": 0, "step": 0, "index": np.repeat(np.arange(g), 6)})
    frame = frame.assign(candidate=np.tile(np.arange(6), g), iou=0.0, chosen=np.tile(np.arange(6) == 0, g))
    result = iou.lowest_iou_share(frame).iloc[0]
    assert result["share"] == pytest.approx(1 / 6)
    assert result["control"] == pytest.approx(1 / 6)


def test_the_measured_control_is_at_chance_and_a_selection_of_the_lowest_iou_is_at_one() -> None:
    g = 4000
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(g, 6))
    index = np.repeat(np.arange(g), 6)
    frame = pd.DataFrame({"run": "r", "epoch": 0, "step": index // 64, "index": index})
    frame = frame.assign(candidate=np.tile(np.arange(6), g), iou=values.ravel())
    frame["chosen"] = (values == values.min(1, keepdims=True)).ravel()
    result = iou.lowest_iou_share(frame).iloc[0]
    assert result["share"] == 1
    assert abs(result["control"] - 1 / 6) < 4 * np.sqrt(1 / 6 * 5 / 6 / g)


def test_the_order_of_the_rows_changes_nothing(log: pa.Table) -> None:
    frame = log.to_pandas().assign(run="r")
    mixed = frame.sample(frac=1, random_state=1)
    for function in (iou.lowest_iou_share, iou.mean_iou, iou.iou_histogram):
        pd.testing.assert_frame_equal(function(frame), function(mixed))


def test_the_histogram_counts_as_a_loop_and_integrates_to_one(log: pa.Table) -> None:
    frame = viewlog.metrics(log.to_pandas()).assign(run="r")
    table = iou.iou_histogram(frame, bins=9, range=(0.1, 1))
    values = frame.loc[frame["chosen"], "iou"].tolist()
    for row in table.to_dict("records"):
        last = row["hi"] == table["hi"].max()
        inside = [v for v in values if row["lo"] <= v and (v < row["hi"] or (last and v <= row["hi"]))]
        assert row["density"] * 0.1 * sum(0.1 <= v <= 1 for v in values) == pytest.approx(len(inside))
    assert (table["density"] * (table["hi"] - table["lo"])).sum() == pytest.approx(1)
    assert table["outside"].iloc[0] == pytest.approx(sum(v < 0.1 for v in values) / len(values))


def test_a_baseline_log_with_one_pair_has_a_mean_iou_but_no_share() -> None:
    frame = draw_log(20, 2, 0, pairs=[(0, 1)]).to_pandas().assign(run="r")
    pd.testing.assert_frame_equal(iou.mean_iou(frame), iou.mean_iou(frame, "first"))
    with pytest.raises(HardlabError, match="no selection"):
        iou.lowest_iou_share(frame)
    with pytest.raises(HardlabError, match="not selected"):
        iou.mean_iou(frame, "others")


def test_a_log_that_lost_rows_or_chose_twice_is_refused(log: pa.Table) -> None:
    frame = log.to_pandas().assign(run="r")
    with pytest.raises(HardlabError, match="not complete"):
        iou.mean_iou(frame.drop(index=7))
    with pytest.raises(HardlabError, match="1 of 120 images"):
        iou.mean_iou(frame.assign(chosen=frame["chosen"] | (frame.index == frame.index[~frame["chosen"]][0])))
