"""Figures: the same bytes whatever surrounds them, every value in its place, and gaps where there is none."""

from __future__ import annotations

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

from hardlab import figures
from hardlab.analysis import tables, viewlog
from hardlab.types import HardlabError

PAPER = Path(__file__).parents[1] / "figures" / "data" / "paper.csv"
# quick: a figure with curves and one with dots
NAMES = [n if n in ("hvs_f3", "hvs_results") else pytest.param(n, marks=pytest.mark.slow) for n in figures.FIGURES]
EPOCHS, SEEDS = 4, (0, 1, 2)


def who(arm: str, seed: int, method: str = "simsiam", rung: str = "smoke") -> dict[str, object]:
    """What every row starts with."""
    recipe = f"{method}-{arm.replace(' ', '-')}"
    place = {"rung": rung, "data": "shapes", "method": method, "setting": f"{method}{rung}"[:8]}
    return place | {"arm": arm, "recipe": recipe, "seed": seed, "run": f"{recipe}-{rung}-s{seed}"}


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
    for name, columns in tables.COLUMNS.items():
        pd.DataFrame(rows[name], columns=list(columns)).to_csv(folder / f"{name}.csv", index=False)
    Image.fromarray(rng.integers(0, 255, (320, 128, 3), dtype=np.uint8)).save(folder / "hvs_f2_pixels.png")
    shutil.copy(PAPER, folder)
    return folder


def texts(figure: Figure) -> str:
    """All that is written in a figure."""
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


def drawn(paths: list[Path]) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in paths}


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_the_same_bytes_when_rows_are_shuffled_and_the_callers_style_differs(
    name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = drawn(figures.draw(name, data_dir, tmp_path / "a"))
    shuffled = tmp_path / "shuffled"
    shutil.copytree(data_dir, shuffled)
    for table in shuffled.glob("*.csv"):
        pd.read_csv(table, dtype=str).sample(frac=1, random_state=0).to_csv(table, index=False)
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
    assert "no finished run" in texts(figure)
    assert not any(line.get_xydata().size for ax in figure.axes for line in ax.get_lines())


@pytest.mark.parametrize("name", NAMES)
def test_no_letter_is_smaller_than_seven_points_and_nothing_is_cut_off(name: str, data_dir: Path) -> None:
    from matplotlib.text import Text

    figure = figures.make(name, data_dir)
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            assert text.get_fontsize() >= 7, text
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text


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
