"""The published tables: every printed value, and ours in its cell."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_tables import (
    PAPER,
    accuracies,
    lengths,
    one,
    placed,
    texts,
)
from matplotlib.figure import Figure

from hardlab import figures
from hardlab.analysis import arms, gap_notes, schema
from hardlab.analysis.intervals import interval
from hardlab.evaluate.protocols import settings
from hardlab.figures import published_table
from hardlab.recipes import recipe
from hardlab.types import HardlabError


# values in each published table: rows by columns, less the dashes
def drawn_from(name: str, frames: list[pd.DataFrame]) -> Figure:
    """A published table from rows of the evaluation."""
    rows = {"paper": pd.read_csv(PAPER, dtype=str), "evaluation": pd.concat(frames), "configs": lengths(*frames)}
    return published_table.make(name, rows.__getitem__)


PRINTED = {
    "hexa": (82, 86, 124, 15, 28),
    "hvs": (48, 60, 12, 13, 11, 36, 27, 13, 13, 25, 25, 6),
    "hnssl": (16, 17, 17, 62, 28, 28, 4),
    "adco": (24, 15, 36, 42),
    "ppcl": (60, 15, 30, 50),
}


def published(paper: str, item: str) -> pd.Series:
    table = pd.read_csv(PAPER, dtype=str)
    table = table[(table["paper"] == paper) & (table["item"] == item)]
    return pd.to_numeric(table.set_index(["row", "column"])["value"], errors="coerce")


# figure, recipe, protocol and metric of its transfer, head of its built-in columns, and whether those are lines instead
TRANSFERS = (
    ("hvs_t2", "simsiam", "linear-hvs-simsiam", "top1-last", "linear", True),
    ("hvs_t2", "simsiam", "finetune-hvs-resnet", "top1-last", "finetuned", True),
    ("hnssl_t5", "hnssl", "linear-hnssl-transfer", "top1", "transfer", False),
    ("hnssl_t6", "hnssl", "finetune-hnssl", "top1-last", "transfer", False),
    ("hexa_t1", "hexa-moco", "linear-hexa-cifar", "top1-last", "transfer", False),
    ("hexa_t5", "hexa-moco", "finetune-hexa", "top1-last", "transfer", False),
    ("adco_t4", "adco", "linear-adco-places", "top1-last", "linear", False),
    ("ppcl_t3", "ppcl", "linear-ppcl", "top1-last", "data of the rung to", True),
    ("ppcl_t4", "ppcl", "linear-ppcl", "top1-last", "data of the rung to", True),
)


def transferred(folder: Path, recipe: str, protocol: str, metric: str, data: str, options: str = "{}") -> None:
    """A run with its own accuracy of a half and its accuracy on both built-in sets, as the only table."""
    where = {"features": "backbone", "split": "test", "options": options, "metric": metric, "protocol": protocol}
    values = {data.split()[0]: 0.5} | {"digits": 0.625, "shapes": 0.75}
    rows = [one(recipe, 0, data) | where | {"evaluated_on": on, "value": v} for on, v in values.items()]
    pd.DataFrame(rows, columns=schema.columns("evaluation")).to_csv(folder / "evaluation.csv", index=False)


def test_published_values_have_a_place_and_their_gains_add_up_but_for_the_known_misprint() -> None:
    paper = pd.read_csv(PAPER, dtype=str)
    assert tuple(paper.columns) == ("paper", "item", "row", "column", "value", "unit", "place")
    assert paper.notna().all(axis=None)
    assert not paper.duplicated(["paper", "item", "row", "column"]).any()
    table = (
        paper[(paper["paper"] == "hvs") & (paper["item"] == "Table 1")]
        .set_index(["row", "column"])["value"]
        .astype(float)
    )
    wrong = []
    for row, column in table.index:
        if row.endswith("as printed"):
            base = row.removesuffix(" improvement as printed")
            if abs(table[f"{base} + HVS", column] - table[base, column] - table[row, column]) > 0.005:
                wrong.append((base, column))
    assert wrong == [("SimCLR RN50", "knn 100 epochs")]
    assert paper.loc[paper["item"] == "Figure 3 left", "value"].astype(float).between(0, 1).all()


@pytest.mark.parametrize("paper", PRINTED)
def test_every_value_of_every_published_table_is_transcribed_and_shown(
    paper: str, data_dir: Path, tmp_path: Path
) -> None:
    rows = pd.read_csv(PAPER, dtype=str)
    rows = rows[rows["paper"] == paper]
    shutil.copy(PAPER, tmp_path)
    for n, count in enumerate(PRINTED[paper], 1):
        printed = rows[rows["item"] == f"Table {n}"]
        assert len(printed) == count, f"Table {n}"
        shown = texts(figures.make(f"{paper}_t{n}", tmp_path)).replace("\N{MINUS SIGN}", "-").split("\n")
        for row in printed.to_dict("records"):
            value = row["value"] if not row["row"].endswith("as printed") else row["value"].lstrip("-")
            assert any(value == s.lstrip("+-") or row["value"] == s.lstrip("+") for s in shown), row


@pytest.mark.parametrize(
    ("item", "known"),
    [
        ("Table 2", {("DINO ViT-S/16", "CIFAR100 linear")}),
        ("Table 3", {("DINO RN50", "VOC detection AP50")}),
        ("Table 6", {("DINO RN50", "VOC AP"), ("DINO RN50", "VOC AP50"), ("DINO RN50", "COCO mask AP75")}),
    ],
)
def test_the_gains_of_hvs_add_up_but_for_the_known_misprints(item: str, known: set[tuple[str, str]]) -> None:
    table, wrong = published("hvs", item), set()
    for row, column in table.index:
        if row.endswith("as printed"):
            base = row.removesuffix(" improvement as printed")
            if abs(table[f"{base} + HVS", column] - table[base, column] - table[row, column]) > 0.005:
                wrong.add((base, column))
    assert wrong == known


def test_the_gains_of_ppcl_and_hnssl_add_up_but_for_the_known_misprints() -> None:
    stated, one, two = published("ppcl", "text"), published("ppcl", "Table 1"), published("ppcl", "Table 2")
    wrong = set()
    for row, column in stated.index:
        base = row.split(" over ")[1].removesuffix(" as stated")
        table = two if column.startswith("ImageNet-100") else one
        if abs(table["Proposed", column] - table[base, column] - stated[row, column]) > 0.005:
            wrong.add((base, column))
    assert wrong == {
        ("SimCLR", "ImageNet-10 100 %"), ("SimCLR", "ImageNet-100 100 %"), ("SimCLR-DD", "ImageNet-100 20 %"),
    }  # fmt: skip
    table = published("hnssl", "Table 3")
    for column in ("1 % top-5", "10 % top-1", "10 % top-5"):
        best = max(table[m, column] for m in ("SimCLR", "BYOL"))
        assert table["Ours", column] - best == pytest.approx(table["gain as printed", column])
    wide = published("hnssl", "Table 4")
    for row, column in wide.index:
        if row.endswith("gain as printed"):
            label = row.removesuffix(" gain as printed")
            others = [
                wide[m + label.removeprefix("Ours"), column]
                for m in ("SimCLR", "BYOL")
                if (m + label.removeprefix("Ours"), column) in wide.index
            ]
            assert wide[label, column] - max(others) == pytest.approx(wide[row, column])


def test_a_tables_cell_is_the_mean_over_seeds_with_half_the_interval(data_dir: Path) -> None:
    frame = pd.read_csv(data_dir / "evaluation.csv")
    frame = frame[
        (frame["recipe"] == "ppcl-simclr") & (frame["protocol"] == "linear-ppcl") & frame["run"].str.contains("-20-")
    ]
    mean, lo, hi, n = interval(100 * frame.groupby("seed")["value"].mean())
    assert n == 2
    half = (hi - lo) / 2
    cell = f"{mean:.1f}±{half:.{0 if half >= 99.95 else 1}f}†"  # of 20 epochs, where the recipe has 300
    assert cell in texts(figures.make("ppcl_t1", data_dir)).split("\n")


def test_what_stands_for_the_data_of_the_rung_is_of_one_data_set() -> None:
    frames = [
        accuracies(["ppcl-simclr", "ppcl"], "cifar10-jpeg 10 %"),
        accuracies(["clae"], "cifar10-jpeg 20 %", value=0.7),
    ]
    frames += [accuracies(["ppcl-simclr"], "fashionmnist 10 %", epochs, value=0.8) for epochs in (10, 20)]
    shown = texts(drawn_from("ppcl_t2", frames)).split("\n")
    assert [cell for cell in shown if "±0.0" in cell] == ["45.0±0.0†"] * 2


def test_a_transfer_between_two_sets_of_ppcl_stands_in_the_row_of_both_and_of_the_share() -> None:
    frames = [accuracies(["ppcl"], "fashionmnist 20 %", on="cifar10-jpeg", value=0.5)]
    frames += [accuracies(["ppcl"], "cifar10-jpeg", on="fashionmnist", value=0.75)]
    at = placed(drawn_from("ppcl_t4", frames))
    assert at["50.0±0.0"][1] == at["FMNIST 20 % to CIFAR-10"][1]
    assert at["75.0±0.0"][1] == at["CIFAR-10 100 % to FMNIST"][1]


def test_a_recipes_own_length_is_shown_unmarked_and_one_of_twice_that_stands_with_the_longer_published_one() -> None:
    own = recipe("dino", "gpu").epochs
    lengths = {own // 4: 0.2, own: 0.4, own * 5 // 4: 0.5, own * 2: 0.6}
    frames = [accuracies(["dino"], "cifar10", n, value=v).assign(protocol="linear") for n, v in lengths.items()]
    at = placed(drawn_from("hvs_t1", frames))
    assert at["40.0±0.0"][0] == at["linear 100 ep"][0] and at["60.0±0.0"][0] == at["linear 300 ep"][0]
    assert not any(text.startswith(("20.0±", "50.0±")) for text in at)


def test_a_number_of_another_length_than_the_recipes_bears_a_sign_that_the_caption_explains() -> None:
    own = recipe("dino", "gpu").epochs
    frames = [accuracies(["dino"], "cifar10", own), accuracies(["dino-hvs"], "cifar10", 7, value=0.5)]
    at = placed(drawn_from("hvs_t1", [frame.assign(protocol="linear") for frame in frames]))
    assert {"45.0±0.0", "50.0±0.0†", "trained for another length than the recipe's: † 7 epochs"} <= at.keys()
    assert not any(text.startswith(("+5.0", "−5.0")) for text in at), "two lengths are no pair"


@pytest.mark.parametrize(
    ("name", "recipe", "protocol", "metric", "head", "turned"),
    [t if t[0] == "hnssl_t5" else pytest.param(*t, marks=pytest.mark.slow) for t in TRANSFERS],
)
def test_the_transfer_to_a_built_in_set_stands_in_its_cell(
    name: str, recipe: str, protocol: str, metric: str, head: str, turned: bool, tmp_path: Path
) -> None:
    transferred(tmp_path, recipe, protocol, metric, "cifar10-jpeg 10 %")
    figure = figures.make(name, tmp_path)
    at = placed(figure)
    for on, cell in (("digits", "62.5"), ("shapes", "75.0")):
        if turned:
            assert at[cell][1] == at[f"{head} {on}"][1] and at[cell][0] == at[recipe][0]
        else:
            assert at[cell][0] == at[on][0]
    assert "digits and shapes: built-in sets, ours alone; nothing is printed for them" in at


def test_a_run_trained_on_shapes_leaves_its_own_cell_a_gap_that_no_command_fills(tmp_path: Path) -> None:
    transferred(tmp_path, "hnssl", "linear-hnssl-transfer", "top1", "shapes")
    with gap_notes.noting() as gaps:
        shown = texts(figures.make("hnssl_t5", tmp_path)).split("\n")
    assert "62.5" in shown and not {"50.0", "75.0"} & set(shown)
    commands = [command for evaluations in gaps.values() for command in evaluations]
    assert not any("runs/hnssl" in command and "--data shapes" in command for command in commands)
    assert "hardlab evaluate RUN --protocol linear-hnssl-transfer --data digits" in commands  # of the other arms


def test_settings_other_than_the_published_ones_are_told_in_the_caption(tmp_path: Path) -> None:
    options = settings("finetune-hnssl", {}, "digits") | {"updates": 50}
    transferred(tmp_path, "hnssl", "finetune-hnssl", "top1-last", "cifar10", json.dumps(options))
    figure = figures.make("hnssl_t6", tmp_path)
    assert any(t.endswith(" by finetune-hnssl (updates=50)") for t in placed(figure))


def test_the_caption_counts_the_arms_that_are_below_their_probe_when_finetuned_and_below_raw_pixels() -> None:
    names = ["stn-baseline", "stn-affine", "stn-rotation-translation"]
    linear = accuracies(names, "cifar10", value=0.4).assign(protocol="linear-lbfgs", metric="top1")
    tuned = accuracies(names, "cifar10", value=0.3).assign(protocol="finetune-hvs-vit")
    tuned["value"] = tuned["value"].mask(tuned["recipe"] == "stn-affine", 0.5)
    near = accuracies(names, "cifar10", value=0.35).assign(protocol="knn", metric="top1@k=20")
    pixels = near[:1].assign(features="pixels", value=0.36)
    shown = texts(drawn_from("hvs_t5", [linear, tuned, near, pixels]))
    assert "ours finetuned is below ours linear in 2 of 3 arms" in shown
    assert "by kNN 3 of 3 arms (35.0 to 35.0) are below raw pixels (36.0)" in shown
    shown = texts(drawn_from("hvs_t5", [linear, tuned.assign(value=0.6), near, pixels.assign(value=0.2)]))
    assert "below" not in shown


def test_the_epochs_beside_seconds_are_those_of_the_runs_that_took_them() -> None:
    own = recipe("adco", "gpu").epochs
    frames = [accuracies(["adco", "adco-queue"], "cifar10", n) for n in (10, own)]
    configs = lengths(*frames)
    runs = configs.drop(columns=["key", "value"])
    timed = runs[runs["run"].str.contains("-10-")]
    rows = {"paper": pd.read_csv(PAPER, dtype=str), "evaluation": pd.concat(frames)}
    rows |= {"configs": configs, "costs": timed.assign(quantity="seconds.total", value=3.0)}
    sheet = published_table.sheet("adco_t2", rows.__getitem__)
    ours = {name[1]: [cell.ours for cell in line] for name, line in zip(sheet.names, sheet.cells, strict=True)}
    assert ours["adco"] == ["10", "", "3±0†"] and "epochs: 10\n" in sheet.caption


def test_where_sets_have_probes_of_their_own_each_line_names_its_probe() -> None:
    tenth = accuracies(["ppcl-simclr", "ppcl"], "cifar10-jpeg 10 %").assign(protocol="linear-lbfgs", metric="top1")
    every = accuracies(["ppcl-simclr"], "cifar10-jpeg")
    rows = {"paper": pd.read_csv(PAPER, dtype=str), "evaluation": pd.concat([tenth, every])}
    sheet = published_table.sheet("ppcl_t1", (rows | {"configs": lengths(tenth, every)}).__getitem__)
    probes = {name[0]: name[1] for name in sheet.names if name[1]}
    assert probes == {"CIFAR-10 100 %": "linear-ppcl", "CIFAR-10 10 %": "linear-lbfgs"}
    alone = published_table.sheet("ppcl_t1", (rows | {"evaluation": tenth, "configs": lengths(tenth)}).__getitem__)
    assert not any(name[1] for name in alone.names)


def test_more_lengths_than_signs_still_have_a_sign_each() -> None:
    ours = arms.Selection(["dino"], accuracies(["dino"], "cifar10"))
    ours.other_length = lambda arm, measure: float(arm.wider)  # type: ignore[method-assign]
    signs = [ours.mark(arms.Arm("dino", wider=length), arms.KNN) for length in (*range(1, 7), 1)]
    assert signs[-1] == signs[0] and len(set(signs)) == 6


def test_a_broken_brace_in_the_description_of_the_tables_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "published_tables.yaml"
    file.write_text(
        published_table.SOURCE.read_text(encoding="utf-8").replace("{base}-iou-40-60", "{base-iou-40-60", 1)
    )
    with pytest.raises(HardlabError, match="base-iou-40-60"):
        published_table.load.__wrapped__(file)
