"""Figures: the same bytes whatever surrounds them, and gaps where there is nothing."""

from __future__ import annotations

import html
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
from made_tables import (
    PAPER,
    drawn,
    texts,
)
from PIL import Image

from hardlab import config, figures, recipes
from hardlab.analysis import schema
from hardlab.evaluate.published import PROTOCOLS
from hardlab.figures import drawing
from hardlab.types import HardlabError

# tables are all drawn by the same function
QUICK = [n for n in figures.FIGURES if "_f" in n] + ["hvs_t2", "hexa_t1", "ppcl_t4"]


WHOLE = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in figures.FIGURES]


COMMITTED = Path(__file__).resolve().parents[2] / "figures"
SCHEMES = ("hvs_f1", "hvs_f10", "hnssl_f1", "ppcl_f3")  # drawn from the registry alone


def _broken(data_dir: Path, folder: Path) -> Path:
    shutil.copytree(data_dir, folder)
    (folder / "hvs_f3_right.csv").write_text("run\nx\n")
    return folder


ODD = {"hvs_results": "simsiam-standard", "ppcl_f5": "ppcl-simclr"}
ODD |= dict.fromkeys(("hexa_t1", "hexa_f3", "hardness", "transfer"), "hexa-moco")


@pytest.mark.parametrize(("name", "odd"), ODD.items())
def test_a_caption_says_which_arms_were_trained_in_another_precision(
    name: str, odd: str, data_dir: Path, tmp_path: Path
) -> None:
    for file in data_dir.iterdir():
        shutil.copy(file, tmp_path)
    rows = {(r.run, r.recipe) for n in schema.TABLES if n != "paper" for r in schema.read(data_dir, n).itertuples()}

    def caption(precision: str) -> str:
        """Of the figure where the runs of one recipe took this precision: as auto, or asked for as it once was."""
        manifests = [
            {"id": run, "config": {"precision": "auto", "seed": 0}, "precision": precision}
            if recipe == odd
            else {"id": run, "config": {"precision": "bf16", "seed": 0}}
            for run, recipe in sorted(rows)
        ]
        (tmp_path / "manifests.jsonl").write_text("".join(json.dumps(m) + "\n" for m in manifests))
        return texts(figures.make(name, tmp_path)).replace("\n", " ")

    mixed, uniform = caption("fp32"), caption("bf16")
    assert f"in bf16, but in fp32: {odd}" in mixed
    assert "but in" not in uniform
    assert uniform == texts(figures.make(name, data_dir)).replace("\n", " ")


@pytest.fixture(scope="module")
def shuffled(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same tables, their rows in another order."""
    folder = tmp_path_factory.mktemp("mixed") / "shuffled"
    shutil.copytree(data_dir, folder)
    for table in folder.glob("*.csv"):
        pd.read_csv(table, dtype=str, keep_default_na=False).sample(frac=1, random_state=0).to_csv(table, index=False)
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_a_figure_is_the_same_bytes_when_rows_are_shuffled_and_the_callers_style_differs(
    name: str, data_dir: Path, shuffled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = drawn(figures.draw(name, data_dir, tmp_path / "a"))
    monkeypatch.chdir(shuffled.parent)
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "other", "savefig.dpi": 50, "axes.grid": True}):
        again = drawn(figures.draw(name, Path("shuffled"), tmp_path / "b"))
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


def test_every_figure_has_a_caption_in_words_and_names_the_tables_that_it_reads(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    original = drawing._rows

    def noted(folder: Path, table: str, manifests: Any) -> pd.DataFrame:
        read.add(table)
        return original(folder, table, manifests)

    monkeypatch.setattr(drawing, "_rows", noted)
    for name in figures.FIGURES:
        paper, _, item = name.partition("_")
        words = drawing.caption(name)
        assert len(words.split()) > 3 and name not in words
        if item[:1] in ("f", "t") and item[1:].isdigit():
            assert words.lower().startswith(paper) and re.search(rf"\b{item[1:]}\b", words), words
    for name in ("hvs_f3", "hexa_t1", "hvs_t7"):
        read.clear()
        figures.make(name, data_dir)
        assert read <= set(drawing.sources(name)), name
        assert set(drawing.sources(name)) - read <= {"paper", "costs", "configs", "evaluation"}, name


def test_every_figure_and_table_of_the_five_papers_is_there() -> None:
    counts = {"hexa": (5, 5), "hvs": (11, 12), "hnssl": (3, 7), "adco": (2, 4), "ppcl": (6, 4)}
    for paper, (drawings, printed) in counts.items():
        names = [n for n in figures.FIGURES if n.startswith(f"{paper}_")]
        assert sum(n[len(paper) + 1] == "f" for n in names) == drawings
        assert sum(n[len(paper) + 1] == "t" for n in names) == printed
    assert sum(map(sum, counts.values())) == 59
    assert set(figures.FIGURES) - {
        f"{p}_{k}{n}" for p, c in counts.items() for k, m in zip("ft", c) for n in range(1, m + 1)
    } == {"hvs_results", "hardness", "transfer"}


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


def _quotes(name: str) -> bool:
    """Whether a figure says what the verdicts are."""
    module, _, function = figures.FIGURES[name].partition(":")
    return (
        bool(function)
        and "verdicts" in inspect.signature(getattr(importlib.import_module(module), function)).parameters
    )


QUOTING = [name for name in figures.FIGURES if _quotes(name)]


@pytest.mark.parametrize("name", QUOTING)
def test_a_committed_picture_quotes_the_verdicts_of_todays_rows(name: str) -> None:
    svg = " ".join(re.findall(r"<!-- (.*?) -->", (COMMITTED / f"{name}.svg").read_text(encoding="utf-8")))
    caption = " ".join(figures.make(name, COMMITTED / "data").get_supxlabel().split())
    told = " ".join(html.unescape(svg).split())
    assert "seed" in caption and caption in told, f"draw it again: hardlab figures {name}"
