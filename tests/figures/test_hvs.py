"""The figures of HVS on made tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import (
    configured,
    one,
    texts,
    who,
)

from hardlab import figures
from hardlab.analysis import schema
from hardlab.analysis.arms import (
    HVS,
    STATIC,
)
from hardlab.figures import hvs


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
    table[table["arm"] != STATIC].to_csv(folder / "hvs_f4_right.csv", index=False)
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
    higher = table[table["seed"] == 0].assign(**{k: v for k, v in who(HVS, 0, rung="gpu").items() if k != "arm"})
    pd.concat([table, higher]).to_csv(folder / "hvs_f3_left.csv", index=False)
    assert "rung gpu · SimSiam on shapes · one seed (0)" in texts(figures.make("hvs_f3", folder))


def test_pictures_without_pixels_still_show_the_crops(data_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data_dir, tmp_path / "t")
    (folder / "hvs_f2_pixels.png").unlink()
    figure = figures.make("hvs_f2", folder)
    assert "pixels\nnot at hand" in texts(figure)
    boxes = [p for p in figure.axes[0].patches if p.get_width() == 20 and p.get_height() == 16]
    assert [p.get_linestyle() == "-" for p in boxes] == [True, True, False]


def test_the_overlap_of_the_selection_is_over_training_steps_where_they_are_known(data_dir: Path) -> None:
    tables = [schema.read(data_dir, name) for name in ("hvs_f3_left", "hvs_f3_right", "paper")]
    last = tables[0]["epoch"].max()
    plain = hvs.f3(*tables).axes[0]
    assert (plain.get_xlabel(), plain.get_xlim()[1]) == ("epoch", max(last, 1))
    in_steps = hvs.f3(tables[0].assign(epoch_steps=39.0), *tables[1:]).axes[0]
    assert (in_steps.get_xlabel(), in_steps.get_xlim()[1]) == ("training steps", max(39 * last, 1))


def test_the_primary_probe_stands_before_another_of_as_many_recipes_and_is_named(
    data_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(data_dir, tmp_path / "t")
    table = pd.read_csv(folder / "evaluation.csv", dtype={"setting": str})
    primary = table[table["protocol"].eq("linear-lbfgs") & table["rung"].eq("smoke")]
    other = primary.assign(protocol="linear", metric="top1-last", value=0.1)
    pd.concat([other, table]).to_csv(folder / "evaluation.csv", index=False)
    figure = figures.make("hvs_results", folder)
    assert "linear: by linear-lbfgs" in figure.get_supxlabel()
    assert min(min(line.get_ydata()) for line in figure.axes[1].get_lines()) > 20


def test_dino_with_its_own_draws_of_small_crops_is_dino_with_hvs(data_dir: Path) -> None:
    table, paper = (pd.read_csv(data_dir / f"{n}.csv", dtype={"setting": str}) for n in ("evaluation", "paper"))
    table = table[table["method"].eq("simsiam") & table["rung"].eq("smoke")]
    dino = table.assign(method="dino", setting="dino", recipe=table["recipe"].str.replace("simsiam", "dino"))
    dino["arm"] = dino["arm"].replace(HVS, "hvs local_draws=4")
    gains = hvs.results(pd.concat([table, dino]), paper, schema.empty("configs")).axes[2]
    assert {"SimSiam", "DINO"} <= {t.get_text() for t in gains.texts}
    printed = [line.get_ydata()[0] for line in gains.get_lines() if line.get_marker() == "D"]
    assert printed[-2:] == pytest.approx([70.72 - 68.80, 74.67 - 73.52])


def test_the_line_of_untrained_networks_is_of_those_with_the_backbone_of_the_runs() -> None:
    rows, configs = [], []

    def reached(recipe: str, value: float, **options: object) -> None:
        run = one(recipe, 0, "cifar10-jpeg") | {"rung": "cpu", "run": f"{recipe}-{value:g}"}
        run["arm"] = {"simsiam": "standard", "simsiam-hvs": HVS}.get(recipe, "untrained")
        configs.extend(configured(run, **options))
        where = {"features": "backbone", "split": "test", "options": "{}", "evaluated_on": "cifar10-jpeg"}
        for protocol, metric in (("knn", "top1@k=20"), ("linear-lbfgs", "top1")):
            rows.append(run | where | {"protocol": protocol, "metric": metric, "value": value})

    reached("simsiam", 0.5)
    reached("simsiam-hvs", 0.6)
    reached("untrained", 0.3)
    reached("untrained", 0.1, backbone="vit_micro", backbone__patch=8)
    figure = hvs.results(pd.DataFrame(rows), schema.empty("paper"), pd.DataFrame(configs))
    dashed = [line.get_ydata()[0] for ax in figure.axes[:2] for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert dashed == pytest.approx([30, 30])
