"""The figures of PPCL on made tables."""

from __future__ import annotations

import pandas as pd
from made_tables import (
    PAPER,
    SEEDS,
    accuracies,
    lengths,
    one,
)

from hardlab.analysis import schema
from hardlab.figures import ppcl


def test_a_tenth_of_the_images_has_a_panel_of_its_own_above_what_table_1_prints_for_it() -> None:
    measure = {"features": "backbone", "split": "test", "options": "{}", "evaluated_on": "cifar10-jpeg"}
    measure |= {"protocol": "linear-ppcl", "metric": "top1-last", "value": 0.45}
    rows = pd.DataFrame([one("ppcl-simclr", s, data="cifar10-jpeg 10 %") | measure for s in SEEDS])
    configs = pd.DataFrame(columns=[*schema.WHO, "key", "value"])
    figure = ppcl.f2(rows, configs, pd.read_csv(PAPER, dtype=str))
    ours, printed = figure.axes[2], figure.axes[5]
    assert (ours.get_title(), printed.get_title()) == (
        "ours, CIFAR-10 10 %\nlinear-ppcl",
        "published (Table 1),\nCIFAR-10 10 %",
    )
    assert [y for line in printed.get_lines() for y in line.get_ydata()] == [76.05, 78.36, 80.94]
    assert ours.get_lines() and [t.get_text() for t in ours.texts] == ["no run"] * 2


def test_a_set_without_runs_is_stood_in_for_by_one_of_the_same_share_above_what_is_printed() -> None:
    arms = ["ppcl-simclr", "ppcl-gan", "ppcl"]
    frames = [accuracies(arms, data) for data in ("cifar10-jpeg", "fashionmnist 10 %", "cifar10-jpeg 20 %")]
    frames += [accuracies(arms[:2], "fashionmnist")]  # fewer arms, but all of the images
    figure = ppcl.f2(pd.concat(frames), lengths(*frames), pd.read_csv(PAPER, dtype=str))
    titles = [
        "ours, CIFAR-10\n10 epochs, linear-ppcl",
        "ours, fashionmnist,\nnot CIFAR-100\n10 epochs, linear-ppcl",
        "ours, fashionmnist 10 %,\nnot CIFAR-10 10 %\n10 epochs, linear-ppcl",
        "published,\nCIFAR-10",
        "published,\nCIFAR-100",
        "published (Table 1),\nCIFAR-10 10 %",
    ]
    assert [ax.get_title() for ax in figure.axes] == titles
    ours, printed = figure.axes[1], figure.axes[4]
    assert [t.get_text() for t in ours.texts] == ["no run"]  # the third arm
    assert [y for line in printed.get_lines() for y in line.get_ydata()] == [63.93, 63.82, 67.41]
    assert "published for FMNIST 100 %: SimCLR 92.35, SimCLR + GAN 92.64, proposed 93.94\n" in figure.get_supxlabel()


def test_a_length_far_beyond_all_other_arms_is_left_out_and_said() -> None:
    frames = [accuracies(["ppcl-simclr", "ppcl"], "cifar10", n) for n in (10, 30)]
    frames += [accuracies(["ppcl-simclr"], "cifar10", n) for n in (60, 225)]
    figure = ppcl.f5(pd.concat(frames), lengths(*frames), pd.read_csv(PAPER, dtype=str))
    assert max(line.get_xdata().max() for line in figure.axes[0].get_lines()) == 60
    assert "left out: SimCLR after 225 epochs · " in figure.get_supxlabel()
    assert "225" not in figure.get_supxlabel().partition("left out: SimCLR after 225 epochs")[2]


def test_a_generator_that_moves_in_every_step_is_said_to() -> None:
    assert (ppcl._often(1), ppcl._often(4)) == ("in every step", "once in 4 steps")
