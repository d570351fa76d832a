"""Every value in its place in the figures of the papers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import (
    PAPER,
    SEEDS,
    accuracies,
    lengths,
    one,
    texts,
    who,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from hardlab import figures
from hardlab.analysis import schema
from hardlab.analysis.arms import (
    HVS,
    STATIC,
)
from hardlab.figures import hnssl, hvs, ppcl, shared_batch_plots, style


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


def test_a_caption_tells_where_arms_have_fewer_seeds_and_no_length_where_one_is_not_known() -> None:
    rows = pd.DataFrame([one("moco", 0, epochs=10)] + [one("simclr", s, epochs=30) for s in SEEDS])
    assert "1 to 3 seeds (0, 1, 2) · epochs: 10, 30" in style.about(rows.assign(epochs=[10, 30, 30, 30]))
    assert style.about(rows.assign(epochs=[10, np.nan, np.nan, np.nan])).endswith("1 to 3 seeds (0, 1, 2)")
    assert style.about(rows[rows["recipe"] == "simclr"]).endswith(" · 3 seeds (0, 1, 2)")


def test_what_is_printed_for_the_tenth_that_ours_were_trained_on_stands_in_words() -> None:
    measure = {"features": "backbone", "split": "test", "options": "{}", "evaluated_on": "cifar10-jpeg"}
    measure |= {"protocol": "linear-ppcl", "metric": "top1-last", "value": 0.45}
    rows = pd.DataFrame([one("ppcl-simclr", s, data="cifar10-jpeg 10 %") | measure for s in SEEDS])
    configs = pd.DataFrame(columns=[*schema.WHO, "key", "value"])
    says = ppcl.f2(rows, configs, pd.read_csv(PAPER, dtype=str)).get_supxlabel()
    assert "published for CIFAR-10 10 %: SimCLR 76.05, SimCLR + GAN 78.36, proposed 80.94\n" in says


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
    said = [shared_batch_plots.transfer(rows).get_supxlabel() for rows in (whole, mixed)]
    assert "t-interval over seeds, by Fisher's z\n" in said[0]
    assert "t-interval over seeds, by Fisher's z\n(of one seed: bootstrap over images)\n" in said[1]
    assert "bootstrap interval over images\n" in shared_batch_plots.transfer(first).get_supxlabel()


def test_the_interval_of_correlations_is_that_of_their_fisher_z_and_two_seeds_have_none() -> None:
    rho = (0.90, 0.96, 0.80)
    at = {"lo": 0.4, "hi": 0.6, "ceiling": 0.9, "images": 64, "other": "moco"}
    rows = [one("adco", s) | at | {"rho": r, "other_run": f"moco-{s}"} for s, r in enumerate(rho)]
    z = np.arctanh(rho)
    half = stats.t(2).ppf(0.975) * z.std(ddof=1) / np.sqrt(3)
    width = (np.tanh(z.mean() + half) - np.tanh(z.mean() - half)) / 2
    cells = [t.get_text() for t in shared_batch_plots.transfer(pd.DataFrame(rows)).axes[0].texts]
    assert f"{np.tanh(z.mean()):.2f}\n±{width:.2f}" in cells
    two = shared_batch_plots.transfer(pd.DataFrame(rows[:2]))
    assert f"{np.tanh(z[:2].mean()):.2f}" in [t.get_text() for t in two.axes[0].texts]
    assert "(of two: none)" in two.get_supxlabel()


def test_below_three_seeds_a_curve_has_its_seeds_and_no_band() -> None:
    def drawn(seeds: int) -> Axes:
        _, (ax,) = style.new(2)
        rows = [one("moco", s) | {"epoch": e, "value": e + s} for s in range(seeds) for e in range(5)]
        style.series(ax, pd.DataFrame(rows), "epoch", "value", "red", "moco")
        assert len(ax.get_lines()) == (1 + seeds if seeds > 1 else 1)
        return ax

    assert [len(drawn(n).collections) for n in (1, 2, 3)] == [0, 0, 1]
    _, (ax,) = style.new(2)
    rows = [one("moco", s) | {"epoch": e, "value": e + s} for e in range(5) for s in range(3 if e == 2 else 1)]
    style.series(ax, pd.DataFrame(rows), "epoch", "value", "red", "moco")
    [bar] = ax.containers
    ((_, lo), (_, hi)) = bar.lines[2][0].get_segments()[0]  # the one point of three seeds has no neighbour to band with
    assert (lo, hi) == pytest.approx(stats.t.interval(0.95, 2, loc=3, scale=1 / np.sqrt(3)))
    frame = pd.DataFrame([one("moco", s) for s in range(3)])
    assert [style.bands(frame[:n]) for n in (1, 2, 3)] == [
        "one seed: no band",
        "thin lines: seeds, too few for a band",
        "bands: 95 % t-intervals over seeds",
    ]
    mixed = pd.concat([frame, pd.DataFrame([one("adco", 0)])])
    assert style.bands(mixed).startswith("bands: 95 % t-intervals of three seeds or more")


def test_the_overlap_of_the_selection_is_over_training_steps_where_they_are_known(data_dir: Path) -> None:
    tables = [schema.read(data_dir, name) for name in ("hvs_f3_left", "hvs_f3_right", "paper")]
    last = tables[0]["epoch"].max()
    plain = hvs.f3(*tables).axes[0]
    assert (plain.get_xlabel(), plain.get_xlim()[1]) == ("epoch", max(last, 1))
    in_steps = hvs.f3(tables[0].assign(epoch_steps=39.0), *tables[1:]).axes[0]
    assert (in_steps.get_xlabel(), in_steps.get_xlim()[1]) == ("training steps", max(39 * last, 1))


def test_one_checkpoint_is_no_curve_and_the_monitor_of_all_arms_stands_for_the_probe_of_one(data_dir: Path) -> None:
    curves, epochs = pd.read_csv(data_dir / "curves.csv"), pd.read_csv(data_dir / "epochs.csv")
    configs = pd.read_csv(data_dir / "configs.csv", dtype=str)
    evaluation = pd.read_csv(data_dir / "evaluation.csv")
    label = lambda rows: hnssl.f3(epochs, rows, configs, evaluation).axes[0].get_ylabel()  # noqa: E731
    assert label(curves) == "linear top-1 (%)"
    assert label(curves[curves["epoch"] == curves["epoch"].max()]) == "kNN top-1 (%), monitor"
    assert label(curves[curves["recipe"] == "hnssl"]) == "kNN top-1 (%), monitor"


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
