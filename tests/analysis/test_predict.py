"""Predicting the chosen pair: perfect where it follows from the parameters, chance where it does not."""

import numpy as np
import pytest
from made_runs import choice_log

from hardlab.analysis import predict
from hardlab.types import HardlabError

FAST = ({"max_depth": 4, "n_estimators": 30},)


def test_features_hold_each_view_once_and_each_pair_once_in_the_images_order():
    frame = choice_log(20, 0, lambda iou, rng: iou.argmin(1))
    x, chosen, lowest = predict.features(frame)
    assert x.shape == (20, 6 * len(predict.PAIR) + 4 * len(predict.DRAWN))
    assert (chosen == lowest).all()
    one = frame[(frame["index"] == 7) & (frame["a"] == 1) & (frame["b"] == 3)].iloc[0]
    assert x.loc[7, "iou of 1,3"] == pytest.approx(one["iou"])
    assert x.loc[7, "hue of 3"] == pytest.approx(one["b_hue"])


@pytest.mark.slow
def test_a_choice_by_iou_is_predicted_on_a_seed_that_was_not_seen_and_said_to_use_the_iou():
    logs = [choice_log(500, seed, lambda iou, rng: iou.argmin(1)) for seed in range(3)]
    table = predict.predictability(logs, grid=FAST, folds=2)
    assert len(table) == 3
    assert (table["accuracy"] > 0.7).all()
    assert (table["lowest_iou"] == 1).all()
    assert (table["n_train"] == 1000).all() and (table["n_test"] == 500).all()
    assert table["uses"].str.startswith("iou ").all()
    assert (table["settings"] == "max_depth=4, n_estimators=30").all()


@pytest.mark.slow
def test_a_choice_at_random_is_predicted_no_better_than_chance():
    logs = [choice_log(600, seed, lambda iou, rng: rng.integers(6, size=len(iou))) for seed in range(2)]
    table = predict.predictability(logs, grid=FAST, folds=2)
    limit = 3.3 * np.sqrt(1 / 6 * 5 / 6 / 600)
    assert (abs(table["accuracy"] - 1 / 6) < limit).all()
    assert (table["chance"] == 1 / 6).all()


@pytest.mark.slow
def test_the_setting_is_the_one_of_the_grid_that_predicts_best_on_the_training_seeds():
    logs = [choice_log(400, seed, lambda iou, rng: iou.argmin(1)) for seed in range(2)]
    grid = ({"max_depth": 1, "n_estimators": 1}, {"max_depth": 4, "n_estimators": 30})
    table = predict.predictability(logs, grid=grid, folds=2)
    assert (table["settings"] == "max_depth=4, n_estimators=30").all()


def test_one_log_is_not_enough():
    with pytest.raises(HardlabError, match="at least 2"):
        predict.predictability([choice_log(10, 0, lambda iou, rng: iou.argmin(1))])
