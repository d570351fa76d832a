"""The summary of a setting's arms against the view logs and the rows that it is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardlab.analysis import iou, schema, tables, viewlog
from hardlab.analysis.catalog import Catalog
from hardlab.analysis.intervals import interval
from hardlab.analysis.summary import quantities, summary

pytestmark = pytest.mark.usefixtures("no_data_sets")


def test_the_summarys_shift_of_the_mean_iou_is_paired_by_seed(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    written = schema.read(tmp_path, "hvs_summary").set_index(["arm", "quantity"])
    every = summary(*(schema.read(tmp_path, name) for name in ("hvs_f4_right", "hvs_f4_left", "evaluation")))
    every = every.assign(quantity=quantities(every)).set_index(["arm", "quantity"])
    table = Catalog(runs_dir).runs
    shifts = []
    for seed in (0, 1):
        paths = table[(table["seed"] == seed) & (table["state"] == "done")].set_index("recipe")["path"]
        means = [iou.mean_iou(viewlog.read(paths[r]))["iou"].mean() for r in ("simsiam-hvs", "simsiam")]
        shifts.append(means[0] - means[1])
    row = written.loc[("hvs", "iou_selected - iou_standard")]
    assert row[["mean", "lo", "hi"]].tolist() == pytest.approx(list(interval(shifts)[:3]), rel=1e-4)
    assert row["n"] == 2
    assert row["seed"] == "0 1"
    gain = every.loc[("hvs", "knn top1@k=20 of backbone on shapes: gain")]
    assert (gain["mean"], gain["n"]) == (pytest.approx(0.02), 2)
    assert ("hvs", "knn top1@k=20 of pixels on shapes") in every.index
    assert ("hvs", "knn top1@k=20 of pixels on shapes: gain") not in every.index
    named = written["name"]
    assert [quantity for _, quantity in named.index] == list(named)  # of the views; accuracies have none
    assert {q for _, q in every.index if "top1" not in q} == set(named) >= {"iou_selected", "lowest_iou_share"}
