"""Predicting the chosen pair: perfect where it follows from the parameters, chance where it does not."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from hardlab.analysis import predict, viewlog
from hardlab.types import HardlabError
from hardlab.views import PARAMS, PRESETS, Look

FAST = ({"max_depth": 4, "n_estimators": 30},)


def log(images, seed, choose):
    """A view log of 4 views and 6 pairs an image, drawn as in training; ``choose`` maps the IoUs (G,6) to a pair."""
    torch.manual_seed(seed)
    drawn = Look(PRESETS["simsiam_cifar"], (0.5,) * 3, (0.25,) * 3).draw(torch.full((images, 2), 32), 4).numpy()
    rows = []
    for c, (a, b) in enumerate(itertools.combinations(range(4), 2)):
        columns = {f"a_{p}": drawn[:, a, j] for j, p in enumerate(PARAMS)}
        columns |= {f"b_{p}": drawn[:, b, j] for j, p in enumerate(PARAMS)}
        rows.append(pd.DataFrame({"epoch": 0, "step": 1, "index": np.arange(images), "candidate": c, "a": a, "b": b,
                                  "loss": 0.0, "chosen": False, **columns}))  # fmt: skip
    frame = viewlog.metrics(pd.concat(rows, ignore_index=True))
    ious = frame["iou"].to_numpy().reshape(6, images).T
    chosen = choose(ious, np.random.default_rng(seed))
    frame["chosen"] = frame["candidate"].to_numpy() == np.tile(chosen, 6)
    return frame.sample(frac=1, random_state=0)  # whatever the order of the rows


def test_features_hold_each_view_once_and_each_pair_once_in_the_images_order():
    frame = log(20, 0, lambda iou, rng: iou.argmin(1))
    x, chosen, lowest = predict.features(frame)
    assert x.shape == (20, 6 * len(predict.PAIR) + 4 * len(predict.DRAWN))
    assert (chosen == lowest).all()
    one = frame[(frame["index"] == 7) & (frame["a"] == 1) & (frame["b"] == 3)].iloc[0]
    assert x.loc[7, "iou of 1,3"] == pytest.approx(one["iou"])
    assert x.loc[7, "hue of 3"] == pytest.approx(one["b_hue"])


@pytest.mark.slow
def test_a_choice_by_iou_is_predicted_on_a_seed_that_was_not_seen_and_said_to_use_the_iou():
    logs = [log(500, seed, lambda iou, rng: iou.argmin(1)) for seed in range(3)]
    found = predict.predictability(logs, grid=FAST, folds=2)
    assert len(found) == 3
    assert (found["accuracy"] > 0.7).all()
    assert (found["lowest_iou"] == 1).all()
    assert (found["n_train"] == 1000).all() and (found["n_test"] == 500).all()
    assert found["uses"].str.startswith("iou ").all()
    assert (found["settings"] == "max_depth=4, n_estimators=30").all()


@pytest.mark.slow
def test_a_choice_at_random_is_predicted_no_better_than_chance():
    logs = [log(600, seed, lambda iou, rng: rng.integers(6, size=len(iou))) for seed in range(2)]
    found = predict.predictability(logs, grid=FAST, folds=2)
    limit = 3.3 * np.sqrt(1 / 6 * 5 / 6 / 600)
    assert (abs(found["accuracy"] - 1 / 6) < limit).all()
    assert (found["chance"] == 1 / 6).all()


@pytest.mark.slow
def test_the_setting_is_the_one_of_the_grid_that_predicts_best_on_the_training_seeds():
    logs = [log(400, seed, lambda iou, rng: iou.argmin(1)) for seed in range(2)]
    grid = ({"max_depth": 1, "n_estimators": 1}, {"max_depth": 4, "n_estimators": 30})
    found = predict.predictability(logs, grid=grid, folds=2)
    assert (found["settings"] == "max_depth=4, n_estimators=30").all()


def test_one_log_is_not_enough():
    with pytest.raises(HardlabError, match="at least 2"):
        predict.predictability([log(10, 0, lambda iou, rng: iou.argmin(1))])
