"""Figures: the same bytes whatever surrounds them, every value in its place, and gaps where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hardlab import config, figures, recipes, registry
from hardlab.analysis import tables, viewlog
from hardlab.evaluate.published import PROTOCOLS, settings
from hardlab.figures import across, hnssl, pick, ppcl, style
from hardlab.figures.table import Cell
from hardlab.figures.table import draw as draw_table
from hardlab.recipes import RECIPES
from hardlab.types import HardlabError

PAPER = Path(__file__).parents[1] / "figures" / "data" / "paper.csv"
# quick: a figure with curves and one with dots
NAMES = [n if n in ("hvs_f3", "hvs_results") else pytest.param(n, marks=pytest.mark.slow) for n in figures.FIGURES]
# tables are all drawn by the same function
QUICK = [n for n in figures.FIGURES if "_f" in n] + ["hvs_t2", "hexa_t1", "ppcl_t4"]
WHOLE = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in figures.FIGURES]
SCHEMES = ("hvs_f1", "hvs_f10", "hnssl_f1", "ppcl_f3")  # drawn from the registry alone
METRICS = [("linear", "top1-last"), ("linear", "top5-last"), ("knn", "top1@k=20"), ("linear-ppcl", "top1-last")]
METRICS += [("svm", "mAP"), ("finetune-hexa", "top1-last"), ("finetune-hvs-vit", "top1-last")]
METRICS += [(f"semi-{who}-{p}", f"top{n}-last") for who in ("hexa", "hnssl") for p in (1, 10, 100) for n in (1, 5)]
METRICS += [("svm-low-shot", f"mAP@k={k}") for k in (2, 4, 8, 16, 32)]
METRICS += [("detection", m) for m in ("AP", "AP50", "AP75", "AP_S")]
METRICS += [("segmentation", f"mask-{m}") for m in ("AP", "AP50", "AP75")]
EPOCHS, SEEDS = 4, (0, 1, 2)


def who(arm: str, seed: int, method: str = "simsiam", rung: str = "smoke") -> dict[str, object]:
    """What every row starts with."""
    recipe = f"{method}-{arm.replace(' ', '-')}"
    place = {"rung": rung, "data": "shapes", "method": method, "setting": f"{method}{rung}"[:8]}
    return place | {"arm": arm, "recipe": recipe, "seed": seed, "run": f"{recipe}-{rung}-s{seed}"}


def one(recipe: str, seed: int, data: str = "cifar10", epochs: int = 10) -> dict[str, object]:
    """What every row of a recipe starts with; runs of another length have a setting of their own."""
    place = {"rung": "gpu", "data": data, "method": recipe.split("-")[0], "setting": f"{len(data)}{epochs:07d}"}
    run = f"{recipe}-{data.replace(' ', '')}-{epochs}-s{seed}"
    return place | {"arm": "made up", "recipe": recipe, "seed": seed, "run": run}


def made_up(rows: dict[str, list[dict[str, object]]], rng: np.random.Generator) -> None:
    """Rows of all recipes at rung gpu: accuracies, epochs, costs, configurations, curves, tiles, a layout."""
    where = {"features": "backbone", "split": "test", "options": "{}"}
    for recipe in RECIPES:
        if recipe in ("simsiam", "simsiam-hvs", "simclr", "simclr-hvs", "untrained"):
            continue  # those have rows of their own above
        for seed in SEEDS[:2]:
            for epochs in (10, 20):
                told = one(recipe, seed, epochs=epochs)
                value = 0.4 + 0.3 * rng.uniform() + epochs / 100
                on = where | {"evaluated_on": "cifar10"}
                rows["evaluation"] += [
                    told | on | {"protocol": p, "metric": m, "value": value}
                    for p, m in METRICS[: 99 if epochs == 10 else 4]
                ]
                rows["configs"] += [
                    told | {"key": k, "value": v} for k, v in (("epochs", str(epochs)), ("batch_size", "256"))
                ]
            told = one(recipe, seed)
            rows["costs"] += [told | {"quantity": q, "value": 2e6} for q in ("seconds.total", "parameters")]
            for epoch in range(EPOCHS):
                names = ("loss", "knn", "generated.pair_cosine")
                rows["epochs"] += [told | {"epoch": epoch, "name": n, "value": 0.5 + 0.1 * epoch} for n in names]
                curve = told | where | {"evaluated_on": "cifar10", "protocol": "linear", "epoch": epoch}
                rows["curves"].append(curve | {"metric": "top1-last", "value": 0.4 + epoch / 10})
                rows["curves"].append(
                    curve | {"metric": "top1", "epoch": 3, "classifier_epoch": epoch + 1, "value": epoch / 10}
                )
    for name, recipe in (("hexa_f1", "hexa-plus-moco"), ("hvs_f11", "stn-affine"), ("ppcl_f6", "ppcl")):
        for row in range(4):
            rows[name] += [one(recipe, 0) | {"row": row, "tile": t, "epoch": t, "label": f"part {t}"} for t in range(4)]
    for recipe in ("adco", "adco-queue"):
        for kind in ("query", "negative"):
            points = rng.normal(size=(30, 3))
            score = {"epoch": 9, "step": 90, "share": 0.3, "chance": 0.05}
            rows["negatives"] += [one(recipe, s) | score for s in SEEDS[:2] if kind == "query"]
            rows["adco_f2"] += [
                one(recipe, 0) | {"epoch": 9, "kind": kind, "x": x, "y": y, "distance": abs(d)} for x, y, d in points
            ]

    across = ("simsiam-hvs", "adco", "hexa-moco", "simsiam")  # of the five systems two have no run
    for seed in SEEDS[:2]:
        for at, recipe in enumerate(across):
            told = one(recipe, seed) | {"images": 64}
            rows["hardness"] += [
                told | {"tile": t, "index": t, "label": "hourglass", "percentile": 5.0 * t, "sd": 9.0, "draws": 4}
                for t in range(18)
            ]
            rows["transfer"] += [
                told
                | {"other": other, "other_run": one(other, seed)["run"], "rho": 0.5 - 0.2 * at, "ceiling": 0.9}
                | {"lo": -0.4, "hi": 0.6}
                for other in across[at:]
            ]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every table with made-up rows, and the published values."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in tables.COLUMNS}
    for seed in SEEDS:
        for arm, share in ((tables.HVS, 0.4), (tables.STATIC, 0.5)):
            for epoch in range(EPOCHS):
                row = {"epoch": epoch, "images": 9, "chance": 1 / 6, "control": 0.17, "tied": 0.01}
                row |= who(arm, seed) | {"share": share + 0.01 * rng.normal()}
                rows["hvs_f4_right"].append(row)
                if arm == tables.HVS:
                    rows["hvs_f3_left"].append(row)
        for arm, series, mean in (
            (tables.HVS, "selected", 0.3),
            (tables.HVS, "first", 0.45),
            ("standard", "standard", 0.45),
        ):
            for epoch in range(EPOCHS):
                value = mean + 0.01 * rng.normal()
                rows["hvs_f4_left"].append(
                    who(arm, seed) | {"series": series, "epoch": epoch, "images": 9, "iou": value}
                )
            for lo in np.linspace(0.1, 0.955, 20):
                bar = {
                    "lo": round(lo, 6),
                    "hi": round(lo + 0.045, 6),
                    "density": rng.uniform(),
                    "images": 9,
                    "outside": 0.1,
                }
                rows["hvs_f3_right"].append(who(arm, seed) | {"series": series} | bar)
        for arm, base in ((tables.HVS, 0.62), ("standard", 0.6), (tables.UNTRAINED, 0.3)):
            for protocol, metric in (("knn", "top1@k=20"), ("knn", "top1@k=10"), ("linear-lbfgs", "top1")):
                for features, value in (("backbone", base + 0.01 * seed), ("pixels", 0.25)):
                    where = {"protocol": protocol, "features": features, "evaluated_on": "shapes", "split": "test"}
                    rows["evaluation"].append(
                        who(arm, seed) | where | {"metric": metric, "options": '{"c": 1}', "value": value}
                    )
    for row in range(10):
        for candidate, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)]):
            pair = dict.fromkeys(viewlog.SCHEMA.names, 0.0) | {
                "epoch": 3,
                "step": 30,
                "index": row,
                "candidate": candidate,
            }
            pair |= {"a": a, "b": b, "loss": -0.5 - 0.1 * candidate, "chosen": candidate == 0, "iou": 0.3}
            for s, slot in (("a", a), ("b", b)):
                pair |= {
                    f"{s}_image_h": 32,
                    f"{s}_image_w": 32,
                    f"{s}_top": 2 * slot,
                    f"{s}_left": 3,
                    f"{s}_height": 16,
                }
                pair |= {f"{s}_width": 20}
            rows["hvs_f2"].append(who(tables.HVS, 0) | {"row": row} | pair)
    made_up(rows, rng)
    rows["importance"] = [
        one("simsiam-hvs", s) | {"name": n, "leaf": leaf, "share": 0.1 + 0.01 * s, "lo": 0.0, "hi": 0.2, "n": 9}
        for s in SEEDS for n in ("iou", "brightness", "hue") for leaf in (1, 10)
    ]  # fmt: skip
    for name, columns in tables.COLUMNS.items():
        pd.DataFrame(rows[name], columns=list(columns)).to_csv(folder / f"{name}.csv", index=False)
    Image.fromarray(rng.integers(0, 255, (320, 128, 3), dtype=np.uint8)).save(folder / "hvs_f2_pixels.png")
    for name in ("hexa_f1", "hvs_f11", "ppcl_f6", "hardness"):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{name}_pixels.png")
    shutil.copy(PAPER, folder)
    return folder


def texts(figure: Figure) -> str:
    """All that is written in a figure."""
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


def drawn(paths: list[Path]) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in paths}


ODD = {"hvs_results": "simsiam-standard", "ppcl_f5": "ppcl-simclr"}
ODD |= dict.fromkeys(("hexa_t1", "hexa_f3", "hardness", "transfer"), "hexa-moco")


@pytest.mark.parametrize(("name", "odd"), ODD.items())
def test_a_caption_says_which_arms_were_trained_in_another_precision(
    name: str, odd: str, data_dir: Path, tmp_path: Path
) -> None:
    for file in data_dir.iterdir():
        shutil.copy(file, tmp_path)
    found = {(r.run, r.recipe) for n in tables.COLUMNS for r in pd.read_csv(data_dir / f"{n}.csv").itertuples()}

    def written(precision: str) -> str:
        """The figure where the runs of one recipe took this precision: as auto, or asked for as it once was."""
        told = [
            {"id": run, "config": {"precision": "auto"}, "precision": precision}
            if recipe == odd
            else {"id": run, "config": {"precision": "bf16"}}
            for run, recipe in sorted(found)
        ]
        (tmp_path / "manifests.jsonl").write_text("".join(json.dumps(m) + "\n" for m in told))
        return texts(figures.make(name, tmp_path)).replace("\n", " ")

    mixed, uniform = written("fp32"), written("bf16")
    assert f"in bf16, but in fp32: {odd}" in mixed
    assert "but in" not in uniform
    assert uniform == texts(figures.make(name, data_dir)).replace("\n", " ")


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_the_same_bytes_when_rows_are_shuffled_and_the_callers_style_differs(
    name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = drawn(figures.draw(name, data_dir, tmp_path / "a"))
    shuffled = tmp_path / "shuffled"
    shutil.copytree(data_dir, shuffled)
    for table in shuffled.glob("*.csv"):
        pd.read_csv(table, dtype=str, keep_default_na=False).sample(frac=1, random_state=0).to_csv(table, index=False)
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "other", "savefig.dpi": 50, "axes.grid": True}):
        again = drawn(figures.draw(name, Path("shuffled"), Path("b")))
        assert matplotlib.rcParams["font.size"] == 20
    assert again == first
    assert set(first) == {f"{name}.svg", f"{name}.png"}


@pytest.mark.slow  # a fresh process imports torch
def test_a_figure_is_the_same_bytes_in_another_process_folder_time_zone_and_locale(
    data_dir: Path, tmp_path: Path
) -> None:
    here = drawn(figures.draw("hvs_f3", data_dir, tmp_path / "here"))
    code = f"from hardlab import figures; figures.draw('hvs_f3', {str(data_dir)!r}, 'there')"
    surroundings = {"TZ": "Pacific/Auckland", "LC_ALL": "C", "LANG": "de_DE.UTF-8", "PYTHONHASHSEED": "7"}
    environment = os.environ | surroundings | {"PYTHONPATH": str(PAPER.parents[2]), "SOURCE_DATE_EPOCH": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert drawn(sorted((tmp_path / "there").iterdir())) == here


def test_no_date_and_no_version_is_written_into_the_files(data_dir: Path, tmp_path: Path) -> None:
    svg, png = figures.draw("hvs_f3", data_dir, tmp_path)
    assert b"<dc:date>" not in svg.read_bytes()
    assert b"Matplotlib v" not in svg.read_bytes()
    assert "Software" not in Image.open(png).info


@pytest.mark.parametrize("name", figures.FIGURES)
def test_without_any_table_a_figure_is_drawn_as_a_marked_gap(name: str, tmp_path: Path) -> None:
    figure = figures.make(name, tmp_path)
    if name in SCHEMES:
        return
    assert "no finished run" in texts(figure)
    measured = figure.axes[1:] if name == "hexa_f5" else figure.axes  # its first panel is a formula
    assert not any(line.get_xydata().size for ax in measured for line in ax.get_lines())


@pytest.mark.parametrize("name", WHOLE)
def test_no_letter_is_smaller_than_seven_points_and_nothing_is_cut_off(name: str, data_dir: Path) -> None:
    from matplotlib.text import Text

    figure = figures.make(name, data_dir)
    width, height = figure.get_size_inches() * figure.dpi
    out_of_view = {
        label
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in axis.get_major_ticks()
        if not ax.axison or not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        for label in (tick.label1, tick.label2)
    }
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible() and text not in out_of_view:
            assert text.get_fontsize() >= 7, text
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text


def test_the_importances_of_a_leaf_size_are_a_bar_and_those_of_the_others_marks_of_their_own(data_dir: Path) -> None:
    left, right = figures.make("hvs_f9", data_dir).axes[:2]
    bars, marks = (dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)) for ax in (left, right))
    assert bars["ours"].patches[0].get_width() == pytest.approx(11)  # mean of 10, 11 and 12 %
    assert marks["10 rows or more"][0].get_xdata() == pytest.approx([11])
    assert "100 rows or more" not in marks
    assert [t.get_text() for t in left.texts].count("no run") == 5


def test_a_missing_arm_is_a_gap_and_the_other_panel_is_still_drawn(data_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data_dir, tmp_path / "t")
    table = pd.read_csv(folder / "hvs_f4_right.csv")
    table[table["arm"] != tables.STATIC].to_csv(folder / "hvs_f4_right.csv", index=False)
    figure = figures.make("hvs_f4", folder)
    left, right = figure.axes[:2]
    assert "no finished run with\none colour draw for all views" in [t.get_text() for t in right.texts]
    assert not right.get_lines()
    assert left.get_lines()


def test_without_baseline_runs_the_first_pair_of_the_log_stands_in_and_is_called_so(
    data_dir: Path, tmp_path: Path
) -> None:
    assert "pair (0,1)" not in texts(figures.make("hvs_f4", data_dir))
    folder = shutil.copytree(data_dir, tmp_path / "t")
    for name in ("hvs_f4_left", "hvs_f3_right"):
        table = pd.read_csv(folder / f"{name}.csv")
        table[table["series"] != "standard"].to_csv(folder / f"{name}.csv", index=False)
    for name in ("hvs_f3", "hvs_f4"):
        assert "pair (0,1) of the HVS log" in texts(figures.make(name, folder))


def test_the_curve_is_the_mean_over_seeds_and_the_published_one_is_beside_it(data_dir: Path) -> None:
    axes = figures.make("hvs_f3", data_dir).axes
    table = pd.read_csv(data_dir / "hvs_f3_left.csv")
    curve = next(line for line in axes[0].get_lines() if line.get_label() == "HVS")
    np.testing.assert_allclose(curve.get_ydata(), table.groupby("epoch")["share"].mean())
    published = next(ax for ax in axes if ax is not axes[0] and ax.get_lines() and ax.get_xlim() == (0, 100))
    assert published.get_lines()[0].get_ydata().max() == 0.475
    chance = next(line for line in axes[0].get_lines() if line.get_label() == "chance, 1/6")
    assert chance.get_ydata()[0] == pytest.approx(1 / 6, abs=1e-6)


def test_the_gain_is_paired_by_seed_and_stands_beside_the_published_one(data_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data_dir, tmp_path / "t")
    table = pd.read_csv(folder / "evaluation.csv")
    alone = (table["arm"] == "standard") & (table["seed"] == 2)
    table[~alone].to_csv(folder / "evaluation.csv", index=False)
    gains = figures.make("hvs_results", folder).axes[2]
    values = [np.asarray(line.get_ydata(), dtype=float) for line in gains.get_lines()]
    dots = [v for v in values if len(v) == 2 and np.allclose(v, 2.0)]
    assert dots, "two seeds have both arms, and each gains two points"
    assert any(len(v) == 1 and v[0] == pytest.approx(58.97 - 57.47) for v in values)


def test_of_several_rungs_the_highest_is_shown_and_told(data_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data_dir, tmp_path / "t")
    table = pd.read_csv(folder / "hvs_f3_left.csv")
    higher = table[table["seed"] == 0].assign(**{k: v for k, v in who(tables.HVS, 0, rung="gpu").items() if k != "arm"})
    pd.concat([table, higher]).to_csv(folder / "hvs_f3_left.csv", index=False)
    assert "rung gpu · SimSiam on shapes · one seed (0)" in texts(figures.make("hvs_f3", folder))


def test_pictures_without_pixels_still_show_the_crops(data_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data_dir, tmp_path / "t")
    (folder / "hvs_f2_pixels.png").unlink()
    figure = figures.make("hvs_f2", folder)
    assert "pixels\nnot at hand" in texts(figure)
    boxes = [p for p in figure.axes[0].patches if p.get_width() == 20 and p.get_height() == 16]
    assert [p.get_linestyle() == "-" for p in boxes] == [True, True, False]


def test_a_table_without_a_column_and_an_unknown_figure_are_told(data_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data_dir, tmp_path / "t")
    pd.read_csv(folder / "hvs_f3_left.csv").drop(columns="share").to_csv(folder / "hvs_f3_left.csv", index=False)
    with pytest.raises(HardlabError, match=r"hvs_f3_left.csv' has no column 'share'"):
        figures.make("hvs_f3", folder)
    with pytest.raises(HardlabError, match=r"'hvs_f33'.*'hvs_f3'"):
        figures.draw("hvs_f33", data_dir, tmp_path)


def test_a_picture_that_cannot_be_written_leaves_the_one_before(data_dir: Path, tmp_path: Path) -> None:
    before = drawn(figures.draw("hvs_f3", data_dir, tmp_path))
    with pytest.raises(HardlabError):
        figures.draw("hvs_f3", _broken(data_dir, tmp_path / "t"), tmp_path)
    assert drawn([tmp_path / n for n in before]) == before
    assert {p.name for p in tmp_path.iterdir()} == {*before, "t"}


def _broken(data_dir: Path, folder: Path) -> Path:
    shutil.copytree(data_dir, folder)
    (folder / "hvs_f3_right.csv").write_text("run\nx\n")
    return folder


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


def test_every_figure_and_table_of_the_five_papers_is_there() -> None:
    counts = {"hexa": (5, 5), "hvs": (11, 12), "hnssl": (3, 7), "adco": (2, 4), "ppcl": (6, 4)}
    for paper, (drawings, printed) in counts.items():
        mine = [n for n in figures.FIGURES if n.startswith(f"{paper}_")]
        assert sum(n[len(paper) + 1] == "f" for n in mine) == drawings
        assert sum(n[len(paper) + 1] == "t" for n in mine) == printed
    assert sum(map(sum, counts.values())) == 59
    assert set(figures.FIGURES) - {
        f"{p}_{k}{n}" for p, c in counts.items() for k, m in zip("ft", c) for n in range(1, m + 1)
    } == {"hvs_results", "hardness", "transfer"}


# values in each published table: rows by columns, less the dashes
PRINTED = {
    "hexa": (82, 86, 124, 15, 28),
    "hvs": (48, 60, 12, 13, 11, 36, 27, 13, 13, 25, 25, 6),
    "hnssl": (16, 17, 17, 62, 28, 28, 4),
    "adco": (24, 15, 36, 42),
    "ppcl": (60, 15, 30, 50),
}


@pytest.mark.parametrize("paper", PRINTED)
def test_every_value_of_every_published_table_is_transcribed_and_shown(
    paper: str, data_dir: Path, tmp_path: Path
) -> None:
    rows = pd.read_csv(PAPER, dtype=str)
    rows = rows[rows["paper"] == paper]
    shutil.copy(PAPER, tmp_path)
    for n, count in enumerate(PRINTED[paper], 1):
        mine = rows[rows["item"] == f"Table {n}"]
        assert len(mine) == count, f"Table {n}"
        shown = texts(figures.make(f"{paper}_t{n}", tmp_path)).replace("\N{MINUS SIGN}", "-").split("\n")
        for row in mine.to_dict("records"):
            told = row["value"] if not row["row"].endswith("as printed") else row["value"].lstrip("-")
            assert any(told == s.lstrip("+-") or row["value"] == s.lstrip("+") for s in shown), row


def published(paper: str, item: str) -> pd.Series:
    table = pd.read_csv(PAPER, dtype=str)
    table = table[(table["paper"] == paper) & (table["item"] == item)]
    return pd.to_numeric(table.set_index(["row", "column"])["value"], errors="coerce")


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
            mine = row.removesuffix(" gain as printed")
            others = [
                wide[m + mine.removeprefix("Ours"), column]
                for m in ("SimCLR", "BYOL")
                if (m + mine.removeprefix("Ours"), column) in wide.index
            ]
            assert wide[mine, column] - max(others) == pytest.approx(wide[row, column])


def test_a_tables_cell_is_the_mean_over_seeds_with_half_the_interval(data_dir: Path) -> None:
    frame = pd.read_csv(data_dir / "evaluation.csv")
    frame = frame[
        (frame["recipe"] == "ppcl-simclr") & (frame["protocol"] == "linear-ppcl") & frame["run"].str.contains("-20-")
    ]
    mean, lo, hi, n = tables.interval(100 * frame.groupby("seed")["value"].mean())
    assert n == 2
    assert f"{mean:.1f}±{(hi - lo) / 2:.1f}" in texts(figures.make("ppcl_t1", data_dir)).split("\n")


def test_a_caption_tells_where_arms_have_fewer_seeds_and_no_length_where_one_is_not_known() -> None:
    rows = pd.DataFrame([one("moco", 0, epochs=10)] + [one("simclr", s, epochs=30) for s in SEEDS])
    assert "1 to 3 seeds (0, 1, 2) · epochs: 10, 30" in style.about(rows.assign(epochs=[10, 30, 30, 30]))
    assert style.about(rows.assign(epochs=[10, np.nan, np.nan, np.nan])).endswith("1 to 3 seeds (0, 1, 2)")
    assert style.about(rows[rows["recipe"] == "simclr"]).endswith(" · 3 seeds (0, 1, 2)")


def test_no_word_of_a_narrow_tables_head_is_cut_and_no_last_word_of_a_note_stands_alone() -> None:
    heads = [("1 % top-1", "own data", False)] * 4 + [("param. (M)", "backbone", False)]
    note = f"{'a line of a caption, ' * 5}end"
    figure = draw_table("A title", [("a" * 60, "", False)], heads, [[Cell("1", "")] * 5], note)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert "backbone" in texts
    assert " ".join(texts[-2:]) == note and min(map(len, texts[-2:])) > 40


def test_what_is_printed_for_the_tenth_that_ours_were_trained_on_stands_in_words() -> None:
    measure = {"features": "backbone", "split": "test", "options": "{}", "evaluated_on": "cifar10-jpeg"}
    measure |= {"protocol": "linear-ppcl", "metric": "top1-last", "value": 0.45}
    rows = pd.DataFrame([one("ppcl-simclr", s, data="cifar10-jpeg 10 %") | measure for s in SEEDS])
    configs = pd.DataFrame(columns=[*tables.WHO, "key", "value"])
    says = ppcl.f2(rows, configs, pd.read_csv(PAPER, dtype=str)).get_supxlabel()
    assert "published for CIFAR-10 10 %: SimCLR 76.05, SimCLR + GAN 78.36, proposed 80.94\n" in says


def accuracies(recipes: list[str], data: str, epochs: int = 10, on: str = "", value: float = 0.45) -> pd.DataFrame:
    """Rows of a probe of two seeds of each recipe, on the set that it was trained on or another."""
    measure = {"features": "backbone", "split": "test", "options": "{}", "protocol": "linear-ppcl"}
    measure |= {"metric": "top1-last", "evaluated_on": on or data.split()[0], "value": value}
    return pd.DataFrame([one(r, s, data, epochs) | measure for r in recipes for s in SEEDS[:2]])


def lengths(*frames: pd.DataFrame) -> pd.DataFrame:
    """The configurations of the runs of such rows, as long as their names tell."""
    runs = pd.concat(frames).drop_duplicates("run")
    return runs[list(tables.WHO)].assign(key="epochs", value=runs["run"].str.split("-").str[-2])


def test_a_set_without_runs_is_stood_in_for_by_one_of_the_same_share_above_what_is_printed() -> None:
    arms = ["ppcl-simclr", "ppcl-gan", "ppcl"]
    frames = [accuracies(arms, data) for data in ("cifar10-jpeg", "fashionmnist 10 %", "cifar10-jpeg 20 %")]
    frames += [accuracies(arms[:2], "fashionmnist")]  # fewer arms, but all of the images
    figure = ppcl.f2(pd.concat(frames), lengths(*frames), pd.read_csv(PAPER, dtype=str))
    titles = [
        "ours, CIFAR-10",
        "ours, fashionmnist\ninstead of CIFAR-100",
        "published, CIFAR-10",
        "published, CIFAR-100",
    ]
    assert [ax.get_title() for ax in figure.axes] == titles
    ours, printed = figure.axes[1], figure.axes[3]
    assert [t.get_text() for t in ours.texts] == ["no run"]  # the third arm
    assert [y for line in printed.get_lines() for y in line.get_ydata()] == [63.93, 63.82, 67.41]
    assert "published for FMNIST 100 %: SimCLR 92.35, SimCLR + GAN 92.64, proposed 93.94\n" in figure.get_supxlabel()


def test_the_arms_of_one_set_are_of_the_length_that_most_of_them_have_there_whatever_others_have() -> None:
    arms = ["ppcl-simclr", "ppcl-gan", "ppcl"]
    tenth = accuracies(arms, "cifar10-jpeg 10 %", 10)
    fifth = [accuracies(arms[1:], "cifar10-jpeg 20 %", 5), accuracies(arms[2:], "cifar10-jpeg 20 %", 10, value=0.9)]
    rows = pd.concat([tenth, *fifth])
    ours = pick.Ours(arms, rows, lengths(rows), any_data=True)
    for share, expected in (("10 %", 45), ("20 %", 45)):
        assert ours.values(pick.Arm("ppcl", trained=("CIFAR-10", share)), ppcl.LINEAR).tolist() == [expected] * 2
    assert "on cifar10-jpeg 10 % (10 epochs), cifar10-jpeg 20 % (5 epochs) · " in style.about(ours.frame)


def test_what_stands_for_the_data_of_the_rung_is_of_one_data_set() -> None:
    frames = [
        accuracies(["ppcl-simclr", "ppcl"], "cifar10-jpeg 10 %"),
        accuracies(["clae"], "cifar10-jpeg 20 %", value=0.7),
    ]
    frames += [accuracies(["ppcl-simclr"], "fashionmnist 10 %", epochs, value=0.8) for epochs in (10, 20)]
    shown = texts(ppcl.t2(pd.read_csv(PAPER, dtype=str), pd.concat(frames), lengths(*frames))).split("\n")
    assert [cell for cell in shown if "±0.0" in cell] == ["45.0±0.0"] * 2


def test_a_transfer_between_two_sets_of_ppcl_stands_in_the_row_of_both_and_of_the_share() -> None:
    frames = [accuracies(["ppcl"], "fashionmnist 20 %", on="cifar10-jpeg", value=0.5)]
    frames += [accuracies(["ppcl"], "cifar10-jpeg", on="fashionmnist", value=0.75)]
    at = placed(ppcl.t4(pd.read_csv(PAPER, dtype=str), pd.concat(frames), lengths(*frames)))
    assert at["50.0±0.0"][1] == at["FMNIST 20 % to CIFAR-10"][1]
    assert at["75.0±0.0"][1] == at["CIFAR-10 100 % to FMNIST"][1]


def test_correlations_of_one_seed_and_of_several_are_told_apart() -> None:
    at = {"rho": 0.5, "lo": 0.4, "hi": 0.6, "ceiling": 0.9, "images": 64}
    rows = [
        one(a, s) | at | {"other": b, "other_run": one(b, s)["run"]}
        for s in SEEDS
        for a, b in (("adco", "adco"), ("adco", "moco"), ("hexa-moco", "adco"))
    ]
    whole = pd.DataFrame(rows)
    first = whole[whole["seed"] == SEEDS[0]]
    mixed = pd.concat([first, whole[(whole["seed"] != SEEDS[0]) & (whole["recipe"] == "adco")]])
    assert "t-interval over seeds\n" in across.transfer(whole).get_supxlabel()
    assert "t-interval over seeds (of one seed: bootstrap over images)\n" in across.transfer(mixed).get_supxlabel()
    assert "bootstrap interval over images\n" in across.transfer(first).get_supxlabel()


def test_of_two_lengths_of_training_the_longer_stands_with_the_longer_published_one(data_dir: Path) -> None:
    frame = pd.read_csv(data_dir / "evaluation.csv")
    frame = frame[(frame["recipe"] == "dino") & (frame["protocol"] == "linear") & (frame["metric"] == "top1-last")]
    shown = texts(figures.make("hvs_t1", data_dir)).split("\n")
    for epochs in ("-10-", "-20-"):
        mean, lo, hi, _ = tables.interval(
            100 * frame[frame["run"].str.contains(epochs)].groupby("seed")["value"].mean()
        )
        assert f"{mean:.1f}±{(hi - lo) / 2:.1f}" in shown


def told(run: dict[str, object], **options: object) -> list[dict[str, object]]:
    """The rows of the table of configurations that tell a run of a recipe with overrides."""
    overrides = {k.replace("__", "."): v for k, v in options.items()}
    tree = recipes.recipe(str(run["recipe"]), str(run["rung"]), overrides).model_dump(mode="json")
    return [run | {"key": k, "value": v if isinstance(v, str) else json.dumps(v)} for k, v in tables.flat(tree)]


@pytest.fixture
def arms(tmp_path: Path) -> Path:
    """Two seeds of HNSSL as it is and of three others shares kept, with an accuracy of a tenth for each digit."""
    rows: dict[str, list[dict[str, object]]] = {"evaluation": [], "configs": [], "epochs": []}
    # of the same seeds; the settings' names sort against the default
    for setting, tau, value in (("a", None, 0.5), ("b", 0.999, 0.9), ("c", 1.0, 0.1), ("d", 0.5, 0.5)):
        for seed in (0, 1) if tau != 0.5 else (2,):
            run = one("hnssl", seed) | {"setting": setting, "run": f"hnssl-{setting}-s{seed}"}
            where = {"features": "backbone", "split": "test", "options": "{}", "evaluated_on": "cifar10"}
            measured = {"protocol": "linear", "metric": "top1-last", "value": value}
            rows["evaluation"].append(run | where | measured)
            rows["configs"] += told(run, **({} if tau is None else {"method__tau": tau}))
            rows["epochs"] += [run | {"epoch": e, "name": "loss", "value": value} for e in (0, 1)]
    for name, of in rows.items():
        pd.DataFrame(of, columns=list(tables.COLUMNS[name])).to_csv(tmp_path / f"{name}.csv", index=False)
    shutil.copy(PAPER, tmp_path)
    return tmp_path


def test_runs_with_other_options_are_arms_of_their_own_and_never_stand_for_the_recipe(arms: Path) -> None:
    cells = texts(figures.make("hnssl_t7", arms)).split("\n")
    assert {"50.0±0.0", "90.0±0.0", "10.0±0.0"} <= set(cells) and "hnssl method.tau=0.999" in cells
    assert "50.0±0.0" in texts(figures.make("hnssl_t1", arms)).split("\n")  # not those of the name that sorts last
    line = next(x for x in figures.make("hnssl_f2", arms).axes[0].get_lines() if not x.get_label().startswith("_"))
    assert line.get_ydata().tolist() == [0.5, 0.5]


def test_an_option_set_to_its_default_is_no_difference(arms: Path) -> None:
    configs = pd.read_csv(arms / "configs.csv", keep_default_na=False, dtype=str)
    book = pick.Book(configs)
    assert book.fits("hnssl-d-s2", "gpu", pick.Arm("hnssl")) and book.fits("hnssl-a-s0", "gpu", pick.Arm("hnssl"))
    tau = pick.Arm("hnssl", (("method.tau", 0.5),))
    assert [book.fits(f"hnssl-{s}-s0", "gpu", tau) for s in "abc"] == [True, False, False]
    assert [book.changes(f"hnssl-{s}-s0", "gpu", "hnssl") for s in "ab"] == [0, 1]


def test_the_command_that_fills_a_gap_makes_the_run_that_the_figure_looks_for(arms: Path) -> None:
    gaps = figures.gaps("hnssl_t7", arms)
    # the runs that are shown are of 200 epochs, as the recipe's, so that no length is told
    want = "hardlab pretrain hnssl --rung gpu method.tau=0.0 && hardlab evaluate RUN --protocol linear"
    assert gaps == [want]
    wide = pick.Arm("hnssl", wider=2)
    assert wide.overrides("cpu") == {"backbone.width": 2 * recipes_width("tiny")}
    assert wide.overrides("paper") == {"backbone.name": "resnet50x2"}  # as the claims have it
    run = one("hnssl", 0) | {"rung": "cpu"}
    book = pick.Book(pd.DataFrame(told(run, backbone__width=64)))
    assert book.fits(str(run["run"]), "cpu", wide) and not book.fits(str(run["run"]), "cpu", pick.Arm("hnssl", wider=4))


def test_the_command_for_a_set_that_lacks_an_arm_trains_it_as_those_of_the_same_share_were_trained() -> None:
    short = {"epochs": 1, "optim__warmup_epochs": 0.2, "data__fraction": 1.0}
    whole, tenth = accuracies(["clae"], "cifar10-jpeg", 1), accuracies(["ppcl-dd", "clae"], "cifar10-jpeg 10 %")
    runs = pd.concat([whole, tenth]).drop_duplicates("run")[[*tables.WHO]].to_dict("records")
    configs = [row for run in runs for row in told(run, **(short if "-1-" in run["run"] else {"epochs": 10}))]
    ours = pick.Ours(["clae", "ppcl-dd"], pd.concat([whole, tenth]), pd.DataFrame(configs), any_data=True)
    asked = pick.Arm("ppcl-dd", trained=("FMNIST", "100 %"))
    want = "epochs=1 optim.warmup_epochs=0.2 data.name=fashionmnist data.fraction=1.0"
    assert ours.command(asked) == f"hardlab pretrain ppcl-dd --rung gpu {want}"
    fifth = ours.command(asked._replace(trained=("CIFAR-10", "10 %")))
    assert fifth == "hardlab pretrain ppcl-dd --rung gpu epochs=10 data.fraction=0.1"


@pytest.mark.parametrize(
    "name",
    [n if n in ("hexa_f4", "ppcl_f5") else pytest.param(n, marks=pytest.mark.slow) for n in figures.FIGURES],
)
def test_every_command_that_fills_a_gap_names_what_exists(name: str, tmp_path: Path) -> None:
    shutil.copy(PAPER, tmp_path)
    commands = figures.gaps(name, tmp_path)
    assert commands or name not in ("hexa_f4", "ppcl_f5")
    for command in commands:
        train, *evaluations = command.split(" && ")
        recipe, _, rung, *pairs = train.removeprefix("hardlab pretrain ").split()
        recipes.recipe(recipe, rung, config.parse(pairs))  # refuses what does not exist
        assert all(e.split("--protocol ")[1].split()[0] in PROTOCOLS for e in evaluations), command


def test_a_run_that_is_there_but_not_measured_is_asked_to_be_evaluated(arms: Path) -> None:
    gaps = figures.gaps("hnssl_t3", arms)
    assert any(g == "hardlab evaluate runs/hnssl-a-s0 runs/hnssl-a-s1 --protocol semi-hnssl-1" for g in gaps)


def test_a_figure_shows_the_probe_that_most_of_its_arms_have_and_of_equals_the_papers() -> None:
    where = {"features": "backbone", "split": "test", "options": "{}", "evaluated_on": "cifar10", "metric": "top1-last"}
    both = {"linear": 0.3, "linear-hvs-dino": 0.9}
    rows = [one("dino", 0) | where | {"protocol": p, "value": v} for p, v in both.items()]
    rows += [one("dino-hvs", 0) | where | {"protocol": "linear", "value": 0.4}]
    measure, names = pick.linear("linear-hvs-dino"), ("dino", "dino-hvs")
    assert pick.Ours(names, pd.DataFrame(rows)).values(pick.Arm("dino"), measure).tolist() == [30.0]
    rows += [one("dino-hvs", 0) | where | {"protocol": "linear-hvs-dino", "value": 0.8}]
    assert pick.Ours(names, pd.DataFrame(rows)).values(pick.Arm("dino"), measure).tolist() == [90.0]


def test_one_checkpoint_is_no_curve_and_the_monitor_of_all_arms_stands_for_the_probe_of_one(data_dir: Path) -> None:
    curves, epochs = pd.read_csv(data_dir / "curves.csv"), pd.read_csv(data_dir / "epochs.csv")
    configs = pd.read_csv(data_dir / "configs.csv", dtype=str)
    label = lambda rows: hnssl.f3(epochs, rows, configs).axes[0].get_ylabel()  # noqa: E731
    assert label(curves) == "linear top-1 (%)"
    assert label(curves[curves["epoch"] == curves["epoch"].max()]) == "kNN top-1 (%), monitor"
    assert label(curves[curves["recipe"] == "hnssl"]) == "kNN top-1 (%), monitor"


def recipes_width(network: str) -> int:
    return int(registry.options("backbone", network)["width"].default)


def test_rows_of_the_built_in_scenes_stay_where_the_accuracies_are_of_other_data() -> None:
    from hardlab.figures.pick import KNN, Arm, Ours, measured

    where = {"features": "backbone", "split": "test", "options": "{}"}
    rows = [
        one("adco", s, data) | where | {"protocol": p, "metric": m, "evaluated_on": data, "value": v}
        for s in SEEDS
        for data, p, m, v in (("cifar10", "knn", "top1@k=20", 0.5), ("shapes", "detection", "AP50", 0.1))
    ]
    rows += [rows[0] | one("simclr", 0, "shapes") | {"evaluated_on": "shapes"}]
    ours = Ours(("adco", "simclr"), pd.DataFrame(rows))
    assert ours.values(Arm("adco"), KNN).tolist() == [50.0] * 3
    assert ours.values(Arm("adco"), measured(("detection", "AP50"), head="scenes")).tolist() == [10.0] * 3
    assert not len(ours.values(Arm("simclr"), KNN))  # the set of more runs is shown
    # of as many on both, a real set comes before a built-in one
    rows = [r for r in rows if r["seed"] == 0 and r["protocol"] == "knn"]
    assert Ours(("adco", "simclr"), pd.DataFrame(rows)).rows["data"].unique().tolist() == ["cifar10"]


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
    pd.DataFrame(rows, columns=list(tables.COLUMNS["evaluation"])).to_csv(folder / "evaluation.csv", index=False)


def placed(figure: Figure) -> dict[str, tuple[float, float]]:
    """Where each text of a table stands that stands there once."""
    every = [(t.get_text(), t.get_position()) for t in figure.axes[0].texts]
    return {text: at for text, at in every if [x for x, _ in every].count(text) == 1}


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
    with pick.noting() as found:
        shown = texts(figures.make("hnssl_t5", tmp_path)).split("\n")
    assert "62.5" in shown and not {"50.0", "75.0"} & set(shown)
    told = [command for evaluations in found.values() for command in evaluations]
    assert not any("runs/hnssl" in command and "--data shapes" in command for command in told)
    assert "hardlab evaluate RUN --protocol linear-hnssl-transfer --data digits" in told  # of the other arms


def test_settings_other_than_the_published_ones_are_told_in_the_caption(tmp_path: Path) -> None:
    options = settings("finetune-hnssl", {}, "digits") | {"updates": 50}
    transferred(tmp_path, "hnssl", "finetune-hnssl", "top1-last", "cifar10", json.dumps(options))
    figure = figures.make("hnssl_t6", tmp_path)
    assert any(t.endswith(" by finetune-hnssl (updates=50)") for t in placed(figure))


@pytest.mark.slow  # draws six figures
def test_an_accuracy_on_another_set_is_none_of_the_accuracies_on_the_own_set(data_dir: Path, tmp_path: Path) -> None:
    for table, by in (("evaluation", "linear-lbfgs"), ("curves", "linear")):
        rows = pd.read_csv(data_dir / f"{table}.csv", dtype={"setting": str})
        away = rows[rows["protocol"] == by].assign(evaluated_on="digits", value=0.01)
        pd.concat([rows, away]).to_csv(tmp_path / f"{table}.csv", index=False)
    for name in ("epochs", "configs"):
        shutil.copy(data_dir / f"{name}.csv", tmp_path)
    shutil.copy(PAPER, tmp_path)

    def heights(figure: Figure) -> list[list[float]]:
        return [np.asarray(line.get_ydata(), float).tolist() for ax in figure.axes for line in ax.get_lines()]

    for name in ("hvs_results", "hnssl_f3", "hexa_f3"):
        mine = heights(figures.make(name, tmp_path))
        assert mine == heights(figures.make(name, data_dir)) and any(mine), name
