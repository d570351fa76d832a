"""The comparison across the papers on made tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
from made_tables import (
    SEEDS,
    one,
)
from scipy import stats

from hardlab.figures import shared_batch_plots


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
    captions = [shared_batch_plots.transfer(rows).get_supxlabel() for rows in (whole, mixed)]
    assert "t-interval over seeds, by Fisher's z\n" in captions[0]
    assert "t-interval over seeds, by Fisher's z\n(of one seed: bootstrap over images)\n" in captions[1]
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
