"""The comparison across the papers on made tables."""

from __future__ import annotations

import pandas as pd
from made_tables import (
    SEEDS,
    one,
)

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
    assert "t-interval over seeds\n" in shared_batch_plots.transfer(whole).get_supxlabel()
    assert (
        "t-interval over seeds (of one seed: bootstrap over images)\n"
        in shared_batch_plots.transfer(mixed).get_supxlabel()
    )
    assert "bootstrap interval over images\n" in shared_batch_plots.transfer(first).get_supxlabel()
