"""The tables that are collected from runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from made_runs import draw_log, write_run

from hardlab import build, recipes
from hardlab.analysis import schema, tables
from hardlab.analysis.arms import comparable, explain_choice
from hardlab.analysis.catalog import Catalog
from hardlab.cli import cli
from hardlab.types import HardlabError

pytestmark = pytest.mark.usefixtures("no_data_sets")


def test_only_runs_that_are_done_are_collected(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    # of snapshots, and of longer logs
    elsewhere = {"hexa_f1", "hvs_f11", "ppcl_f6", "adco_f2", "negatives", "importance", "predictability"}
    elsewhere |= {"hardness", "transfer"}
    for name in schema.TABLES:
        frame = pd.read_csv(tmp_path / f"{name}.csv")
        assert list(frame.columns) == schema.columns(name)
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
    assert set(before) == {f"{name}.csv" for name in schema.TABLES} | {"manifests.jsonl"}


def test_every_run_that_a_table_names_has_its_manifest_beside_it(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    manifests = {
        json.loads(line)["id"]: json.loads(line) for line in (tmp_path / "manifests.jsonl").read_text().splitlines()
    }
    for name in schema.TABLES:
        named = {run for cell in pd.read_csv(tmp_path / f"{name}.csv")["run"] for run in str(cell).split()}
        assert named <= manifests.keys()
    assert {m["state"] for m in manifests.values()} == {"done"}


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
            message = f"'{tmp_path / name}' has no finished run .*`hardlab pretrain`"
            assert re.match(message, str(refused.exception))
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert not (tmp_path / "new").exists() and not (tmp_path / "drawn").exists()


def test_an_empty_folder_of_runs_adds_to_no_tables_a_header_only(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    tables.collect(tmp_path / "runs", tmp_path / "out", add=True)
    for name, columns in schema.TABLES.items():
        assert (tmp_path / "out" / f"{name}.csv").read_text() == ",".join(columns) + "\n"
    with pytest.raises(HardlabError, match="no folder of runs"):
        tables.collect(tmp_path / "nowhere", tmp_path / "out")


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
    for name in schema.TABLES:
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


def test_a_run_that_was_made_again_without_its_views_leaves_the_earlier_rows_of_views(tmp_path: Path) -> None:
    write_run(tmp_path / "here", "simsiam-hvs", 0, draw_log(8, 2, 0), backbone_knn=0.5)
    write_run(tmp_path / "there", "simsiam-hvs", 0, None, backbone_knn=0.75)
    for folder in (tmp_path / "there").iterdir():  # the same seed of the same arm, by another name
        folder.rename(folder.with_name("made-again"))
    tables.collect(tmp_path / "here", tmp_path / "out")
    before = pd.read_csv(tmp_path / "out" / "hvs_f4_left.csv")
    tables.collect(tmp_path / "there", tmp_path / "out", add=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "hvs_f4_left.csv"), before)
    assert set(pd.read_csv(tmp_path / "out" / "evaluation.csv")["run"]) == {"made-again"}
    assert set(before["run"]) < set(pd.read_csv(tmp_path / "out" / "configs.csv")["run"])


def test_a_run_that_was_made_again_leaves_the_earlier_rows_of_what_it_was_not_measured_by(tmp_path: Path) -> None:
    here = write_run(tmp_path / "here", "simsiam", 0, None, backbone_knn=0.5)
    row = json.loads((here / "results.jsonl").read_text().splitlines()[0])
    with (here / "results.jsonl").open("a") as file:
        for more in ({"protocol": "linear"}, {"data": "digits"}):
            file.write(json.dumps(row | more) + "\n")
    write_run(tmp_path / "there", "simsiam", 0, None, backbone_knn=0.75)
    for folder in (tmp_path / "there").iterdir():
        folder.rename(folder.with_name("made-again"))
    tables.collect(tmp_path / "here", tmp_path / "out")
    tables.collect(tmp_path / "there", tmp_path / "out", add=True)
    rows = pd.read_csv(tmp_path / "out" / "evaluation.csv")
    rows = rows[rows["features"] == row["features"]]
    by = {(r.protocol, r.evaluated_on): r.run for r in rows.itertuples()}
    assert by[row["protocol"], row["data"]] == "made-again"
    assert by["linear", row["data"]] == by[row["protocol"], "digits"] == here.name


def test_a_run_that_is_collected_again_without_its_evaluation_keeps_its_rows_and_with_it_has_the_new_ones(
    tmp_path,
) -> None:
    run = write_run(tmp_path / "runs", "simsiam", 0, None, backbone_knn=0.5)
    kept = (run / "results.jsonl").read_text()
    tables.collect(tmp_path / "runs", tmp_path / "out")
    before = pd.read_csv(tmp_path / "out" / "evaluation.csv")
    (run / "results.jsonl").unlink()
    tables.collect(tmp_path / "runs", tmp_path / "out", add=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "evaluation.csv"), before)
    (run / "results.jsonl").write_text(kept.replace("0.5", "0.75"))
    tables.collect(tmp_path / "runs", tmp_path / "out", add=True)
    after = pd.read_csv(tmp_path / "out" / "evaluation.csv")
    assert len(after) == len(before) and {0.5, 0.75} & set(after["value"]) == {0.75}


@pytest.mark.slow
def test_added_tables_compute_importances_again_only_where_a_seed_is_new_or_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums: list[float] = []

    def explained(log: pd.DataFrame, effort: Any) -> pd.DataFrame:
        sums.append(float(log["loss"].sum()))
        return pd.DataFrame({"name": ["iou"], "leaf": 1, "share": sums[-1], "lo": 0.0, "hi": 1.0, "n": len(log)})

    def predicted(logs: dict[str, pd.DataFrame], effort: Any) -> pd.DataFrame:
        records = [{"run": r, "accuracy": len(logs) / 10, "settings": "{}", "uses": "{}"} for r in logs]
        return pd.DataFrame(records if len(logs) > 1 else [])

    monkeypatch.setattr(tables.pairs, "LEAST", 10)
    monkeypatch.setattr(tables.pairs, "importances", explained)
    monkeypatch.setattr(tables.pairs, "predictabilities", predicted)

    def add(recipe: str, seed: int, ended: str) -> None:
        manifest = write_run(tmp_path / "runs", recipe, seed, draw_log(5, 2, seed)) / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"ended": ended}))

    def rows(collected: int) -> dict[str, pd.DataFrame]:
        sums.clear()
        tables.collect(tmp_path / "runs", tmp_path / "added", add=True, only=["importance", "predictability"])
        assert len(sums) == collected
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


def test_epochs_costs_and_configurations_of_a_run_are_rows(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    epochs, costs = (pd.read_csv(tmp_path / f"{n}.csv") for n in ("epochs", "costs"))
    values = epochs[(epochs["recipe"] == "simsiam") & (epochs["seed"] == 1)].set_index(["name", "epoch"])["value"]
    assert values["loss", 2] == 1.5
    assert values["terms.base", 2] == 1.5
    assert values["knn", 2] == 0.32
    assert values["std", 2] == pytest.approx(0.05), "a number logged at steps is the mean over the epoch"
    assert "images_per_s" not in values.index.get_level_values(0)
    quantities = costs[(costs["recipe"] == "simsiam") & (costs["seed"] == 1)].set_index("quantity")["value"]
    run = recipes.recipe("simsiam", "smoke")
    assert quantities["seconds.total"] == pytest.approx(2 + (run.epochs - 1) / 2)
    assert (quantities["images_per_s"], quantities["peak_memory_mb"]) == (100, 50)
    assert quantities["parameters"] == sum(p.numel() for p in build.method(run).backbone.parameters())
    configs = pd.read_csv(tmp_path / "configs.csv", dtype=str)
    values = configs[(configs["recipe"] == "simsiam-hvs") & (configs["seed"] == "1")].set_index("key")["value"]
    assert (values["hard.0.name"], values["optim.lr"], values["epochs"]) == ("hvs", str(run.optim.lr), str(run.epochs))
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
    curves = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert curves["classifier_epoch"].isna().sum() == 1
    assert len(epochs := curves["classifier_epoch"].dropna()) == tables.KEPT_EPOCHS
    assert (epochs.min(), epochs.max()) == (1, 100)
    kept = pd.read_csv(tmp_path / "out" / "epochs.csv")
    assert len(kept) == tables.KEPT_EPOCHS
    assert (kept["epoch"].min(), kept["epoch"].max()) == (0, 299)
    assert (kept["epoch"] == kept["value"]).all()


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
    done = Catalog(tmp_path / "runs").finished("smoke", ["simsiam"])
    assert done.set_index("run")["precision"].to_dict() == {old: "bf16", same: "bf16", other: "fp32"}
    kept = comparable(done)
    assert kept["run"].tolist() == [old, same]
    assert explain_choice(done, kept)[["precision", "used"]].to_numpy().tolist() == [
        ["bf16", "yes"], ["bf16", "yes"], ["fp32", "no"]
    ]  # fmt: skip
    tables.collect(tmp_path / "runs", tmp_path / "out", only=["configs"])
    precisions = pd.read_csv(tmp_path / "out" / "configs.csv").query("key == 'precision'").set_index("run")["value"]
    assert precisions.to_dict() == {old: "bf16", same: "bf16", other: "fp32"}
    kept_as_asked = {name: m["config"]["precision"] for name, m in schema.read_manifests(tmp_path / "out").items()}
    assert kept_as_asked == {old: "bf16", same: "auto", other: "auto"}
