"""The tables that are collected from runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
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
        frame = schema.read(tmp_path, name)
        assert list(frame.columns) == schema.columns(name)
        if name != schema.CONFIGS:
            assert (tmp_path / f"{name}.csv").read_text().splitlines()[0].split(",") == schema.stored(name)
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
    assert set(before) == {f"{name}.csv" for name in schema.FILES} | {"manifests.jsonl"}


def test_every_run_that_a_table_names_has_its_manifest_beside_it(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    manifests = {
        json.loads(line)["id"]: json.loads(line) for line in (tmp_path / "manifests.jsonl").read_text().splitlines()
    }
    for name in schema.TABLES:
        named = {run for cell in schema.read(tmp_path, name)["run"] for run in str(cell).split()}
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
    for name in schema.FILES:
        assert (tmp_path / "out" / f"{name}.csv").read_text() == ",".join(schema.stored(name)) + "\n"
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
        a, b = (schema.read(tmp_path / side, name) for side in "ab")
        pd.testing.assert_frame_equal(a, b, rtol=1e-4)
    assert (tmp_path / "a" / "manifests.jsonl").read_bytes() == (tmp_path / "b" / "manifests.jsonl").read_bytes()
    tables.collect(tmp_path / "second", tmp_path / "b")
    assert set(schema.read(tmp_path / "b", "evaluation")["recipe"]) == {"simsiam-hvs-static"}


def test_a_run_that_was_made_again_without_its_views_leaves_the_earlier_rows_of_views(tmp_path: Path) -> None:
    write_run(tmp_path / "here", "simsiam-hvs", 0, draw_log(8, 2, 0), backbone_knn=0.5)
    write_run(tmp_path / "there", "simsiam-hvs", 0, None, backbone_knn=0.75)
    for folder in (tmp_path / "there").iterdir():  # the same seed of the same arm, by another name
        folder.rename(folder.with_name("made-again"))
    tables.collect(tmp_path / "here", tmp_path / "out")
    before = schema.read(tmp_path / "out", "hvs_f4_left")
    tables.collect(tmp_path / "there", tmp_path / "out", add=True)
    pd.testing.assert_frame_equal(schema.read(tmp_path / "out", "hvs_f4_left"), before)
    assert set(schema.read(tmp_path / "out", "evaluation")["run"]) == {"made-again"}
    assert set(before["run"]) < set(schema.read(tmp_path / "out", "configs")["run"])


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
    rows = schema.read(tmp_path / "out", "evaluation")
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
    before = schema.read(tmp_path / "out", "evaluation")
    (run / "results.jsonl").unlink()
    tables.collect(tmp_path / "runs", tmp_path / "out", add=True)
    pd.testing.assert_frame_equal(schema.read(tmp_path / "out", "evaluation"), before)
    (run / "results.jsonl").write_text(kept.replace("0.5", "0.75"))
    tables.collect(tmp_path / "runs", tmp_path / "out", add=True)
    after = schema.read(tmp_path / "out", "evaluation")
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
        return {n: schema.read(tmp_path / "added", n) for n in NAMES}

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
    epochs, costs = (schema.read(tmp_path, n) for n in ("epochs", "costs"))
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
    configs = schema.read(tmp_path, "configs")
    values = configs[(configs["recipe"] == "simsiam-hvs") & (configs["seed"] == 1)].set_index("key")["value"]
    assert (values["hard.0.name"], values["optim.lr"], values["epochs"]) == ("hvs", str(run.optim.lr), str(run.epochs))
    curves = schema.read(tmp_path, "curves")
    assert set(curves["classifier_epoch"].dropna()) == {3}
    assert set(curves.loc[curves["classifier_epoch"].notna(), "metric"]) == {"top1"}, "no figure has another"
    assert (curves.loc[curves["recipe"] == "simsiam", "epoch"] == run.epochs / 2).all()


def test_some_tables_alone_are_those_of_a_whole_collection(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path / "all")
    written = tables.collect(runs_dir, tmp_path / "some", only=("hvs_f4_left", "hvs_summary"))
    assert {p.name for p in written} == {"runs.csv", "hvs_f4_left.csv", "hvs_summary.csv", "manifests.jsonl"}
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
    curves = schema.read(tmp_path / "out", "curves")
    assert curves["classifier_epoch"].isna().sum() == 1
    assert len(epochs := curves["classifier_epoch"].dropna()) == tables.KEPT_EPOCHS
    assert (epochs.min(), epochs.max()) == (1, 100)
    kept = schema.read(tmp_path / "out", "epochs")
    assert len(kept) == tables.KEPT_EPOCHS
    assert (kept["epoch"].min(), kept["epoch"].max()) == (0, 299)
    assert (kept["epoch"] == kept["value"]).all()


def test_the_objective_of_an_epoch_is_the_sum_of_its_terms_each_with_its_weight(tmp_path: Path) -> None:
    weighted = {"hard.mined.alpha2": 0.25}
    for recipe, changes in (("hnssl", weighted), ("simsiam", {})):
        run = write_run(tmp_path / "runs", recipe, 0, None, changes=changes)
        terms = {"base": 2.0, "mined": -1.0} if changes else {"base": 2.0}
        line = {"kind": "epoch", "step": 1, "epoch": 0, "loss": 2.0, "terms": terms, "seconds": {}}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    tables.collect(tmp_path / "runs", tmp_path / "out")
    rows = schema.read(tmp_path / "out", "epochs")
    assert rows[rows["name"] == "objective"].set_index("recipe")["value"].to_dict() == {"hnssl": 2.0 - 0.25}


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
    tables.collect(tmp_path / "runs", tmp_path / "out", only=["costs"])
    precisions = schema.read(tmp_path / "out", "configs").query("key == 'precision'").set_index("run")["value"]
    assert precisions.to_dict() == {old: "bf16", same: "bf16", other: "fp32"}
    kept_as_asked = {name: m["config"]["precision"] for name, m in schema.read_manifests(tmp_path / "out").items()}
    assert kept_as_asked == {old: "bf16", same: "auto", other: "auto"}


def test_tables_of_an_earlier_version_are_read_as_they_are_and_the_next_collection_writes_them_anew(
    runs_dir: Path, tmp_path: Path
) -> None:
    tables.collect(runs_dir, tmp_path / "new")
    frames = {name: schema.read(tmp_path / "new", name) for name in schema.TABLES}
    (tmp_path / "old").mkdir()
    for name, frame in frames.items():  # each row says what its run is, and there is a row for each number
        frame.to_csv(tmp_path / "old" / f"{name}.csv", index=False)
    shutil.copy(tmp_path / "new" / "manifests.jsonl", tmp_path / "old")
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(schema.read(tmp_path / "old", name), frame)
    (tmp_path / "none").mkdir()
    tables.collect(tmp_path / "none", tmp_path / "old", add=True)
    old, new = left(tmp_path / "old"), left(tmp_path / "new")
    assert old.keys() == new.keys()
    # the summary is computed anew, from rounded numbers
    assert {name for name in old if old[name] != new[name]} <= {"hvs_summary.csv"}


def left(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_run_is_said_once_and_a_row_of_several_runs_lists_what_they_are(runs_dir: Path, tmp_path: Path) -> None:
    tables.collect(runs_dir, tmp_path)
    done = Catalog(runs_dir).done
    heads = {name: (tmp_path / f"{name}.csv").read_text().splitlines()[0] for name in schema.FILES}
    assert [name for name, head in heads.items() if "setting" in head.split(",")] == [schema.RUNS]
    assert sorted(schema.read_runs(tmp_path)["run"]) == sorted(done["run"])
    about = done.set_index("run")
    for row in schema.read(tmp_path, "hvs_summary").itertuples():
        runs = about.loc[row.run.split()]
        for column in ("rung", "data", "method", "setting", "arm"):
            assert {getattr(row, column)} == set(runs[column])
        assert row.recipe == " ".join(dict.fromkeys(runs["recipe"]))
        assert row.seed == " ".join(dict.fromkeys(map(str, runs["seed"])))
    for row in schema.read(tmp_path, "evaluation").itertuples():
        assert all(getattr(row, c) == about.loc[row.run, c] for c in schema.WHO[:-1])


def test_the_numbers_of_a_line_are_rows_and_a_line_with_too_few_or_with_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(",".join(schema.WHO) + "\ncpu,shapes,moco,12345678,standard,moco,0,a\n")
    table = tmp_path / "adco_f2.csv"
    table.write_text("run,epoch,kind,x,y,distance\na,3,negative,1.5 2,-1 nan,0.25 0.5\na,3,query,,,0.75\n")
    rows = schema.read(tmp_path, "adco_f2")
    assert rows[["kind", "x", "y", "distance"]].fillna(99).to_numpy().tolist() == [
        ["negative", 1.5, -1, 0.25],
        ["negative", 2, 99, 0.5],
        ["query", 99, 99, 0.75],
    ]
    assert set(rows["seed"]) == {0} and set(rows["recipe"]) == {"moco"}
    for line, fault in (("1 2 3,1 2,0.5 0.5", "has 2 numbers in its column 'y'"), ("1,x2,3", "has 'x2' in its col")):
        table.write_text(f"run,epoch,kind,x,y,distance\na,3,negative,{line}\n")
        with pytest.raises(HardlabError, match=fault):
            schema.read(tmp_path, "adco_f2")


def test_a_run_that_is_collected_again_without_its_log_keeps_its_costs_and_its_losses(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "simsiam", 0, None, backbone_knn=0.5)
    tables.collect(tmp_path / "runs", tmp_path / "out")
    before = {name: schema.read(tmp_path / "out", name) for name in ("costs", "epochs")}
    assert before["costs"]["quantity"].str.startswith("seconds.").any() and len(before["epochs"])
    (run / "metrics.jsonl").unlink()
    tables.collect(tmp_path / "runs", tmp_path / "out", add=True)
    for name, rows in before.items():
        pd.testing.assert_frame_equal(schema.read(tmp_path / "out", name), rows)


def test_an_evaluation_with_other_options_leaves_the_earlier_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "simsiam", 0, None, backbone_knn=0.5)
    tables.collect(tmp_path / "runs", tmp_path / "out")
    before = schema.read(tmp_path / "out", "evaluation")
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    (run / "results.jsonl").write_text(
        "".join(json.dumps(row | {"options": {"mine": 1}, "value": 0.75}) + "\n" for row in rows)
    )
    tables.collect(tmp_path / "runs", tmp_path / "out", add=True)
    after = schema.read(tmp_path / "out", "evaluation")
    assert len(after) == 2 * len(before) and len(after.merge(before)) == len(before)


def test_the_tables_keep_of_the_epochs_what_is_shown_or_judged(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "untrained", 0, None)
    claimed = {m["where"]["name"] for m in claimed_measures() if m["table"] == "epochs"}
    assert len(claimed) > 5
    names = claimed | {"knn", "adco.norm", "alignment", "mined.d_q05"}
    plain = {name: 1.0 for name in names if not name.startswith("terms.")} | {"loss": 1.0}
    lines = [{"kind": "step", "step": 1, "epoch": 0, "terms": {}, "lr": {}, "images_per_s": 1.0, **plain}]
    terms = {name.removeprefix("terms."): 1.0 for name in names if name.startswith("terms.")}
    lines += [{"kind": "epoch", "step": 1, "epoch": 0, "loss": 1.0, "terms": terms, "seconds": {}}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tables.collect(tmp_path / "runs", tmp_path / "out")
    assert set(schema.read(tmp_path / "out", "epochs")["name"]) == names - {"alignment", "mined.d_q05"}


def claimed_measures() -> list[dict[str, Any]]:
    tree = yaml.safe_load((Path(tables.__file__).with_name("claims.yaml")).read_text())
    each = [claim["measure"] for claim in tree["claims"]]
    return [tree["measures"][m] if isinstance(m, str) else m for m in each]


def test_the_views_of_one_run_stay_until_that_run_or_a_better_one_has_views_here(tmp_path: Path) -> None:
    def collected(folder: str, recipe: str, seed: int, log: int) -> set[tuple[str, float]]:
        write_run(tmp_path / folder, recipe, seed, draw_log(8, 2, log))
        tables.collect(tmp_path / folder, tmp_path / "out", add=True, only=["hvs_f2"])
        rows = schema.read(tmp_path / "out", "hvs_f2")
        return {(run, round(loss, 4)) for run, loss in zip(rows["run"], rows["loss"], strict=True)}

    first = collected("a", "simclr-hvs", 0, 1)
    assert len({run for run, _ in first}) == 1
    assert collected("b", "simclr-hvs", 1, 2) == first
    again = collected("c", "simclr-hvs", 0, 3)
    assert {run for run, _ in again} == {run for run, _ in first} and again != first
    better = collected("d", "simsiam-hvs", 0, 4)
    assert all(run.startswith("simsiam-hvs") for run, _ in better)
    assert collected("e", "simclr-hvs", 0, 5) == better
