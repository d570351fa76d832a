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
