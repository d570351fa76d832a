"""The view log, overlap of selected pairs, and tables, against loops and closed forms."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from click.testing import CliRunner
from scipy import stats

from hardlab import build, recipes, views
from hardlab.analysis import iou, tables, viewlog
from hardlab.cli import cli
from hardlab.types import Batch, HardlabError

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


@pytest.fixture(scope="module")
def log() -> pa.Table:
    return draw_log(images=40, epochs=3, seed=0)


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


def test_slots_lists_each_view_once_and_marks_the_two_that_were_selected(log: pa.Table) -> None:
    frame = log.to_pandas().assign(run="r")
    each = viewlog.slots(frame)
    assert len(each) == 120 * 4
    for _, rows in each.groupby(["epoch", "index"]):
        assert rows["slot"].tolist() == [0, 1, 2, 3]
        assert rows["chosen"].sum() == 2
    image = frame[(frame["epoch"] == 0) & (frame["index"] == frame["index"][0])]
    pair = image[image["chosen"]].iloc[0]
    mine = each[(each["epoch"] == 0) & (each["index"] == pair["index"]) & (each["slot"] == pair["b"])].iloc[0]
    assert all(mine[p] == pair[f"b_{p}"] for p in viewlog.PARAMS)


def test_the_interval_is_the_textbook_t_interval_and_unknown_below_two_values() -> None:
    values = [1.0, 2.0, 4.0, np.nan]
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values[:3]))
    mean, lo, hi, n = tables.interval(values)
    assert (mean, n) == (pytest.approx(7 / 3), 3)
    assert (lo, hi) == pytest.approx(expected)
    assert tables.interval([3.0])[0] == 3
    assert np.isnan(tables.interval([3.0])[1])
    assert np.isnan(tables.interval([]).mean)


def test_an_arm_is_what_differs_from_the_defaults_and_arms_share_their_setting() -> None:
    runs = {name: recipes.recipe(name, "smoke").model_dump(mode="json") for name in recipes.RECIPES}
    assert tables.arm(runs["simsiam"]) == tables.STANDARD
    assert tables.arm(runs["simsiam-hvs"]) == tables.HVS
    assert tables.arm(runs["simsiam-hvs-static"]) == tables.STATIC
    assert tables.arm(runs["untrained"]) == tables.UNTRAINED
    eight = recipes.recipe("simsiam-hvs", "smoke", {"hard.hvs.draws": 8, "seed": 3}).model_dump(mode="json")
    assert tables.arm(eight) == "hvs draws=8"
    assert tables.setting(eight) == tables.setting(runs["simsiam"]) == tables.setting(runs["simsiam-hvs"])
    assert tables.setting(runs["simsiam"]) != tables.setting(runs["simclr"])
    longer = recipes.recipe("simsiam", "smoke", {"epochs": 99}).model_dump(mode="json")
    assert tables.setting(longer) != tables.setting(runs["simsiam"])


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of HVS and of its baseline, one HVS run that is not done, an untrained network."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        accuracy = {"backbone_knn": 0.5 + 0.01 * seed, "backbone_linear_lbfgs": 0.6, "pixels_knn": 0.3}
        hard = {k: v + 0.02 for k, v in accuracy.items()}
        write_run(root, "simsiam-hvs", seed, draw_log(30, 3, seed), **hard)
        write_run(root, "simsiam", seed, draw_log(30, 3, 10 + seed, pairs=[(0, 1)]), **accuracy)
    write_run(root, "simsiam-hvs", 2, draw_log(30, 1, 2), state="running", backbone_knn=0.99)
    write_run(root, "untrained", 0, None, backbone_knn=0.2)
    return root


@pytest.fixture(autouse=True)
def no_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise HardlabError("no data set here")

    monkeypatch.setattr(build, "images", absent)


def test_runs_and_results_join_the_manifests_of_all_folders(runs_dir: Path) -> None:
    table = tables.runs(runs_dir)
    assert len(table) == 6
    assert set(table["state"]) == {"done", "running"}
    rows = tables.results(runs_dir)
    assert len(rows) == 4 * 3 + 1 + 1
    assert set(rows["evaluated_on"]) == {"shapes"}
    assert rows.loc[rows["state"] == "running", "value"].tolist() == [0.99]


def test_a_second_measurement_replaces_the_first_and_a_cut_off_line_is_no_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, "simsiam", 0, None, backbone_knn=0.5)
    line = (run / "results.jsonl").read_text()
    (run / "results.jsonl").write_text(line + line.replace("0.5", "0.75") + line[:30])
    assert tables.results(tmp_path)["value"].tolist() == [0.75]
    (run / "results.jsonl").write_text(line[:30] + "\n" + line)
    with pytest.raises(HardlabError, match=r"Line 1 .* is not JSON"):
        tables.results(tmp_path)


def test_only_runs_that_are_done_are_collected(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    # of snapshots, and of longer logs
    elsewhere = {"hexa_f1", "hvs_f11", "ppcl_f6", "adco_f2", "negatives", "importance", "predictability"}
    elsewhere |= {"hardness", "transfer"}
    for name in tables.COLUMNS:
        frame = pd.read_csv(tmp_path / f"{name}.csv")
        assert tuple(frame.columns) == tables.COLUMNS[name]
        assert bool(len(frame)) == (name not in elsewhere), name
        if not len(frame):
            continue
        assert not frame["run"].str.contains("-s2-").any()
        assert not (frame["seed"].astype(str) == "2").any()


def test_collecting_again_gives_the_same_bytes_and_no_other_files(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    tables.collect(runs_dir, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert set(before) == {f"{name}.csv" for name in tables.COLUMNS} | {"manifests.jsonl"}


def test_every_run_that_a_table_names_has_its_manifest_beside_it(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    told = {
        json.loads(line)["id"]: json.loads(line) for line in (tmp_path / "manifests.jsonl").read_text().splitlines()
    }
    for name in tables.COLUMNS:
        named = {run for cell in pd.read_csv(tmp_path / f"{name}.csv")["run"] for run in str(cell).split()}
        assert named <= told.keys()
    assert {m["state"] for m in told.values()} == {"done"}


def test_the_summarys_shift_of_the_mean_iou_is_paired_by_seed(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    summary = pd.read_csv(tmp_path / "hvs_summary.csv").set_index(["arm", "quantity"])
    table = tables.runs(runs_dir)
    shifts = []
    for seed in (0, 1):
        of = table[(table["seed"] == seed) & (table["state"] == "done")].set_index("recipe")["path"]
        means = [iou.mean_iou(viewlog.read(of[r]))["iou"].mean() for r in ("simsiam-hvs", "simsiam")]
        shifts.append(means[0] - means[1])
    row = summary.loc[("hvs", "iou_selected - iou_standard")]
    assert row[["mean", "lo", "hi"]].tolist() == pytest.approx(list(tables.interval(shifts)[:3]), rel=1e-4)
    assert row["n"] == 2
    assert row["seed"] == "0 1"
    gain = summary.loc[("hvs", "knn top1@k=20 of backbone on shapes: gain")]
    assert (gain["mean"], gain["n"]) == (pytest.approx(0.02), 2)
    assert ("hvs", "knn top1@k=20 of pixels on shapes") in summary.index
    assert ("hvs", "knn top1@k=20 of pixels on shapes: gain") not in summary.index


def test_a_folder_without_a_finished_run_is_refused_and_the_tables_stay_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    before = {name: f"what was collected: {name}".encode() for name in ("evaluation.csv", "manifests.jsonl")}
    for name, content in before.items():
        (tmp_path / "out" / name).write_bytes(content)
    write_run(tmp_path / "broken-off", "simsiam", 1, None, state="stopped")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "broken-off"):
        for out in ("out", "new"):
            words = ["--from", tmp_path / name, "--data", tmp_path / out, "--out", tmp_path / "drawn"]
            refused = CliRunner().invoke(cli, ["figures", "hvs_f3", *map(str, words)])
            assert refused.exit_code == 1 and isinstance(refused.exception, HardlabError)
            said = f"There is no finished run in '{tmp_path / name}', .*`hardlab pretrain`"
            assert re.match(said, str(refused.exception))
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert not (tmp_path / "new").exists() and not (tmp_path / "drawn").exists()


def test_an_empty_folder_of_runs_adds_to_no_tables_a_header_only(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    tables.collect(tmp_path / "runs", tmp_path / "out", add=True)
    for name, columns in tables.COLUMNS.items():
        assert (tmp_path / "out" / f"{name}.csv").read_text() == ",".join(columns) + "\n"
    with pytest.raises(HardlabError, match="no folder of runs"):
        tables.collect(tmp_path / "nowhere", tmp_path / "out")


class Grey:
    """Images whose pixels are all their own index; as much of ``Images`` as pictures need."""

    def digest(self) -> str:
        return "d1"

    def batches(self, order: torch.Tensor) -> Any:
        for rows in order:
            raw = (rows % 256).to(torch.uint8)[:, None, None, None].expand(-1, 3, 32, 48)
            yield Batch(raw.contiguous(), torch.tensor([[32, 48]]).expand(len(rows), 2), rows)


def test_runs_of_two_machines_added_one_after_the_other_give_the_tables_of_both_together(tmp_path: Path) -> None:
    logs = {name: draw_log(8, 2, seed) for seed, name in enumerate(("simsiam-hvs", "simsiam-hvs-static"))}
    for place in ("both", "first", "second"):
        for seed in (0, 1):
            if place != "second":
                write_run(tmp_path / place, "simsiam-hvs", seed, logs["simsiam-hvs"], backbone_knn=0.5 + seed / 10)
            if place != "first":
                write_run(tmp_path / place, "simsiam-hvs-static", seed, logs["simsiam-hvs-static"], backbone_knn=0.25)
    tables.collect(tmp_path / "both", tmp_path / "a")
    tables.collect(tmp_path / "first", tmp_path / "b")
    tables.collect(tmp_path / "second", tmp_path / "b", add=True)
    for name in tables.COLUMNS:
        if name == "hvs_f2":  # of one run: which one depends on what was there
            continue
        a, b = (
            pd.read_csv(tmp_path / side / f"{name}.csv", dtype={"value": str} if name == "configs" else None)
            for side in "ab"
        )
        pd.testing.assert_frame_equal(a, b, rtol=1e-4)
    assert (tmp_path / "a" / "manifests.jsonl").read_bytes() == (tmp_path / "b" / "manifests.jsonl").read_bytes()
    # a folder of an earlier version, without the table of configurations: its manifests tell them
    (tmp_path / "b" / "configs.csv").unlink()
    tables.collect(tmp_path / "second", tmp_path / "b", add=True, only=["configs"])
    assert (tmp_path / "a" / "configs.csv").read_bytes() == (tmp_path / "b" / "configs.csv").read_bytes()
    tables.collect(tmp_path / "second", tmp_path / "b")
    assert set(pd.read_csv(tmp_path / "b" / "evaluation.csv")["recipe"]) == {"simsiam-hvs-static"}


@pytest.mark.slow
def test_added_tables_compute_importances_again_only_where_a_seed_is_new_or_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def explained(log: pd.DataFrame, effort: Any) -> pd.DataFrame:
        seen.append(float(log["loss"].sum()))
        return pd.DataFrame({"name": ["iou"], "leaf": 1, "share": seen[-1], "lo": 0.0, "hi": 1.0, "n": len(log)})

    def predicted(logs: dict[str, pd.DataFrame], effort: Any) -> pd.DataFrame:
        told = [{"run": r, "accuracy": len(logs) / 10, "settings": "{}", "uses": "{}"} for r in logs]
        return pd.DataFrame(told if len(logs) > 1 else [])

    monkeypatch.setattr(tables.pairs, "LEAST", 10)
    monkeypatch.setattr(tables.pairs, "importances", explained)
    monkeypatch.setattr(tables.pairs, "predictabilities", predicted)

    def add(recipe: str, seed: int, ended: str) -> None:
        manifest = write_run(tmp_path / "runs", recipe, seed, draw_log(5, 2, seed)) / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"ended": ended}))

    def rows(collected: int) -> dict[str, pd.DataFrame]:
        seen.clear()
        tables.collect(tmp_path / "runs", tmp_path / "added", add=True, only=["importance", "predictability"])
        assert len(seen) == collected
        tables.collect(tmp_path / "runs", tmp_path / "whole", only=["importance", "predictability"])
        both = [(tmp_path / side / f"{n}.csv").read_text() for n in NAMES for side in ("added", "whole")]
        assert both[0] == both[1] and both[2] == both[3]
        return {n: pd.read_csv(tmp_path / "added" / f"{n}.csv") for n in NAMES}

    NAMES = ("importance", "predictability")
    for seed in (0, 1):
        add("simsiam-hvs", seed, "first")
    add("simsiam-hvs-static", 0, "first")
    assert len(rows(3)["importance"]) == 3
    assert len(rows(0)["predictability"]) == 2
    add("simsiam-hvs", 2, "first")  # the others are now predicted from two
    assert rows(3)["predictability"]["accuracy"].tolist() == [0.3] * 3
    shutil.rmtree(next((tmp_path / "runs").glob("simsiam-hvs-static*")))
    add("simsiam-hvs-static", 0, "again")
    rows(1)


def test_pictures_show_the_logged_images_and_vanish_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    frame = draw_log(12, 1, 0).to_pandas()
    neutral = {f"{s}_{k}": 1.0 for s in "ab" for k in ("brightness", "contrast", "saturation")}
    frame = frame.assign(**neutral, a_hue=0.0, b_hue=0.0)
    write_run(tmp_path / "runs", "simsiam-hvs", 0, pa.Table.from_pandas(frame, viewlog.SCHEMA, preserve_index=False))
    monkeypatch.setattr(build, "images", lambda *_, **__: Grey())
    tables.collect(tmp_path / "runs", tmp_path)
    rows = pd.read_csv(tmp_path / "hvs_f2.csv").drop_duplicates("row")
    strip = np.asarray(Image.open(tmp_path / "hvs_f2_pixels.png"))
    size = strip.shape[1] // 5
    assert len(rows) == tables.PICTURES == strip.shape[0] / size
    for row, index in zip(rows["row"], rows["index"], strict=True):
        middle = strip[row * size + size // 4, size // 2 :: size, 0]
        assert np.abs(middle.astype(int) - index % 256).max() <= 1
    monkeypatch.setattr(Grey, "digest", lambda _: "other data")
    tables.collect(tmp_path / "runs", tmp_path)
    assert not (tmp_path / "hvs_f2_pixels.png").exists()


def test_finished_runs_are_found_by_recipe_in_the_order_asked_for_and_missing_ones_are_named(tmp_path: Path) -> None:
    for recipe, seed in (("simsiam", 1), ("simclr", 0), ("simsiam", 0)):
        write_run(tmp_path, recipe, seed, None)
    write_run(tmp_path, "moco", 0, None, state="stopped")
    found = tables.finished(tmp_path, "smoke", ["simsiam", "simclr"])
    assert found[["recipe", "seed"]].to_numpy().tolist() == [["simsiam", 0], ["simsiam", 1], ["simclr", 0]]
    with pytest.raises(HardlabError, match=r"no finished run of moco, byol .*`hardlab pretrain moco --rung smoke` and"):
        tables.finished(tmp_path, "smoke", ["moco", "simclr", "byol"])


def test_runs_of_two_lengths_are_not_taken_together_and_the_shorter_ones_are_named(tmp_path: Path) -> None:
    long, short, shorter = (
        [write_run(tmp_path, "simsiam-hvs", seed, None, changes={"epochs": epochs}).name for seed in seeds]
        for epochs, seeds in ((4, (1, 0, 2)), (2, (0, 1)), (1, (0, 1, 2)))
    )
    one = write_run(tmp_path, "simclr", 0, None, changes={"epochs": 8}).name
    every = tables.finished(tmp_path, "smoke", ["simsiam-hvs", "simclr"])
    kept = tables.one_setting(every)
    assert kept["run"].tolist() == [long[1], long[0], long[2], one]  # three seeds, and the longer of two such lengths
    first, second = tables.choice(every, kept).splitlines()
    assert first.startswith("simsiam-hvs: ") and ", 4 epochs on " in first and ", seeds 0, 1, 2; left out: " in first
    assert {name for name in every["run"] if name in first} == {*short, *shorter}
    assert second.startswith("simclr: ") and second.endswith("8 epochs on shapes 40 %, seed 0; left out: none")
    fewer = tables.one_setting(every[every["run"].isin([*long[:1], *short])])
    assert fewer["run"].tolist() == short  # the most seeds come first, then the length


def test_the_precision_that_auto_became_is_part_of_the_setting_and_stands_in_the_tables(tmp_path: Path) -> None:
    def took(seed: int, precision: str, asked: str = "auto") -> str:
        """A run; asked for by name as all were once, its manifest has no precision of its own."""
        path = write_run(tmp_path / "runs", "simsiam", seed, None, changes={"precision": asked})
        manifest = json.loads((path / "manifest.json").read_text()) | (
            {"precision": precision} if asked == "auto" else {}
        )
        (path / "manifest.json").write_text(json.dumps(manifest))
        return path.name

    old, same, other = took(0, "bf16", asked="bf16"), took(1, "bf16"), took(2, "fp32")
    done = tables.finished(tmp_path / "runs", "smoke", ["simsiam"])
    assert done.set_index("run")["precision"].to_dict() == {old: "bf16", same: "bf16", other: "fp32"}
    kept = tables.one_setting(done)
    assert kept["run"].tolist() == [old, same]
    assert " in bf16, " in tables.choice(done, kept) and other in tables.choice(done, kept)
    tables.collect(tmp_path / "runs", tmp_path / "out", only=["configs"])
    told = pd.read_csv(tmp_path / "out" / "configs.csv").query("key == 'precision'").set_index("run")["value"]
    assert told.to_dict() == {old: "bf16", same: "bf16", other: "fp32"}
    kept_as_asked = {name: m["config"]["precision"] for name, m in tables.manifests(tmp_path / "out").items()}
    assert kept_as_asked == {old: "bf16", same: "auto", other: "auto"}


def test_runs_of_other_strategies_or_data_are_not_taken_together(tmp_path: Path) -> None:
    easy = [write_run(tmp_path, "simsiam-hvs", s, None, changes={"hard.hvs.draws": 8}).name for s in (0, 1)]
    plain = [write_run(tmp_path, "simsiam-hvs", s, None).name for s in (0, 1, 2)]
    other = [write_run(tmp_path, "simsiam", s, None, changes={"data.name": "digits"}).name for s in (0, 1, 2)]
    mine = write_run(tmp_path, "simsiam", 0, None).name
    every = tables.finished(tmp_path, "smoke", ["simsiam-hvs", "simsiam"])
    assert tables.one_setting(every)["run"].tolist() == [*plain, mine]  # on the data of both recipes
    assert tables.one_setting(every[every["run"].isin(easy)])["run"].tolist() == easy
    alone = every[every["recipe"] == "simsiam"]
    assert tables.one_setting(alone)["run"].tolist() == other


def test_arms_that_are_not_needed_may_be_missing_and_are_named_with_their_command(tmp_path: Path) -> None:
    write_run(tmp_path, "simclr", 0, None)
    write_run(tmp_path, "moco", 0, None, state="stopped")
    arms = ["moco", "simclr"]
    assert tables.finished(tmp_path, "smoke", arms, need=["simclr"])["recipe"].tolist() == ["simclr"]
    assert tables.missing(tmp_path, "smoke", arms) == {"moco": "hardlab pretrain moco --rung smoke"}
    with pytest.raises(HardlabError, match=r"no finished run of moco in"):
        tables.finished(tmp_path, "smoke", arms, need=["moco"])


def test_top1_is_one_number_a_protocol_with_its_interval_over_seeds(tmp_path: Path) -> None:
    paths = [write_run(tmp_path, "simsiam", seed, None) for seed in (0, 1)]
    assert len(tables.top1(tmp_path, [p.name for p in paths])) == 0
    for path, value in zip(paths, (0.5, 0.7), strict=True):
        rows = [{"protocol": "knn", "metric": metric, "value": v, "features": of, "data": "shapes", "split": "test"}
                for metric, v, of in (("top1@k=20", value, "backbone"), ("top1@k=200", 0.1, "backbone"),
                                      ("top1@k=20", 0.2, "pixels"))]  # fmt: skip
        (path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (row,) = tables.top1(tmp_path, [p.name for p in paths], ("method", "arm")).to_dict("records")
    assert (row["method"], row["arm"], row["protocol"], row["n"]) == ("simsiam", "standard", "knn", 2)
    assert row["mean"] == pytest.approx(0.6) and row["lo"] < 0.5 < 0.7 < row["hi"]
    (one,) = tables.top1(tmp_path, [paths[1].name]).to_dict("records")
    assert one["mean"] == 0.7 and one["n"] == 1


def test_epochs_costs_and_configurations_of_a_run_are_rows(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    epochs, costs = (pd.read_csv(tmp_path / f"{n}.csv") for n in ("epochs", "costs"))
    mine = epochs[(epochs["recipe"] == "simsiam") & (epochs["seed"] == 1)].set_index(["name", "epoch"])["value"]
    assert mine["loss", 2] == 1.5
    assert mine["terms.base", 2] == 1.5
    assert mine["knn", 2] == 0.32
    assert mine["std", 2] == pytest.approx(0.05), "a number logged at steps is the mean over the epoch"
    assert "images_per_s" not in mine.index.get_level_values(0)
    told = costs[(costs["recipe"] == "simsiam") & (costs["seed"] == 1)].set_index("quantity")["value"]
    run = recipes.recipe("simsiam", "smoke")
    assert told["seconds.total"] == pytest.approx(2 + (run.epochs - 1) / 2)
    assert (told["images_per_s"], told["peak_memory_mb"]) == (100, 50)
    assert told["parameters"] == sum(p.numel() for p in build.method(run).backbone.parameters())
    configs = pd.read_csv(tmp_path / "configs.csv", dtype=str)
    mine = configs[(configs["recipe"] == "simsiam-hvs") & (configs["seed"] == "1")].set_index("key")["value"]
    assert (mine["hard.0.name"], mine["optim.lr"], mine["epochs"]) == ("hvs", str(run.optim.lr), str(run.epochs))
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert set(curves["classifier_epoch"].dropna()) == {3}
    assert set(curves.loc[curves["classifier_epoch"].notna(), "metric"]) == {"top1"}, "no figure has another"
    assert (curves.loc[curves["recipe"] == "simsiam", "epoch"] == run.epochs / 2).all()


def test_some_tables_alone_are_those_of_a_whole_collection(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path / "all")
    written = tables.collect(runs_dir, tmp_path / "some", only=("hvs_f4_left", "hvs_summary"))
    assert {p.name for p in written} == {"hvs_f4_left.csv", "hvs_summary.csv", "manifests.jsonl"}
    assert all(p.read_bytes() == (tmp_path / "all" / p.name).read_bytes() for p in written)
    with pytest.raises(HardlabError, match="Did you mean 'hvs_f2'"):
        tables.collect(runs_dir, tmp_path / "none", only=["hvs_f22"])
    assert not (tmp_path / "none").exists()


def test_of_a_long_training_so_many_epochs_are_kept_the_first_and_the_last_among_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "untrained", 0, None)
    lines = [{"kind": "epoch", "step": e, "epoch": e, "loss": 1.0 * e, "terms": {}, "seconds": {}} for e in range(300)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = {"protocol": "linear", "metric": "top1", "features": "backbone", "data": "shapes", "split": "test"}
    curve |= {"options": {}, "step": 1, "epoch": 1}
    lines = [curve | {"classifier_epoch": e, "value": 0.0} for e in range(1, 101)] + [curve | {"value": 1.0}]
    (run / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tables.collect(tmp_path / "runs", tmp_path / "out")
    told = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert told["classifier_epoch"].isna().sum() == 1
    assert len(of := told["classifier_epoch"].dropna()) == tables.KEPT_EPOCHS
    assert (of.min(), of.max()) == (1, 100)
    kept = pd.read_csv(tmp_path / "out" / "epochs.csv")
    assert len(kept) == tables.KEPT_EPOCHS
    assert (kept["epoch"].min(), kept["epoch"].max()) == (0, 299)
    assert (kept["epoch"] == kept["value"]).all()


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
    from PIL import Image

    views = np.asarray(Image.open(tmp_path / "out" / "hexa_f1_pixels.png"))
    assert [int(v) for v in views[4, 4::8, 0]] == [51, 102, 153, 204]
    assert pd.read_csv(tmp_path / "out" / "hexa_f1.csv")["label"].tolist()[:4] == [*kinds, "mixed"]
    picture = np.asarray(Image.open(tmp_path / "out" / "ppcl_f6_pixels.png"))
    assert picture.shape == (6 * 8, 2 * 8, 3)
    assert [int(v) for v in picture[[4, 12], 4, 0]] == [40, 49]
    assert [int(v) for v in picture[[4, 12], 12, 0]] == [80, 89]
    labels = pd.read_csv(tmp_path / "out" / "ppcl_f6.csv")
    assert labels[labels["tile"] == 1]["label"].tolist() == ["G", "average of G"] * 3
    half = recipes.recipe("ppcl", "smoke").epochs / 2
    assert labels.groupby("tile")["epoch"].first().tolist() == [half, 2 * half]
    layout = pd.read_csv(tmp_path / "out" / "adco_f2.csv")
    assert layout["kind"].value_counts().to_dict() == {"negative": 30, "query": 24}
    nearest = [1 - max(n @ q for q in queries) for n in negatives]
    found = layout.loc[layout["kind"] == "negative", "distance"]
    np.testing.assert_allclose(sorted(found), sorted(nearest), rtol=1e-4)
    assert layout.loc[layout["kind"] == "query", "distance"].isna().all()
    scores = pd.read_csv(tmp_path / "out" / "negatives.csv")
    length = recipes.recipe("adco", "smoke").epochs
    assert scores["step"].tolist() == [40, 80] and scores["epoch"].tolist() == [length / 2, length]
    gaps = [min(np.linalg.norm(q - p) for j, p in enumerate(queries) if j != i) for i, q in enumerate(queries)]
    far = [min(np.linalg.norm(n - q) for q in queries) for n in negatives]
    assert scores["share"].tolist() == pytest.approx([0, np.mean(np.array(far) > np.quantile(gaps, 0.95))], rel=1e-4)
    assert scores["distance"].tolist() == pytest.approx([0, np.median(far)], abs=1e-4)
    assert scores["false_all"].isna().all()  # the run has no checkpoint to put real images beside its negatives
    tables.collect(tmp_path / "empty", tmp_path / "out", add=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "negatives.csv"), scores)
