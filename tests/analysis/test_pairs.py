"""The tables of importance and predictability: what stands in them, and where there is nothing to say."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from made_logs import write_log

from hardlab.analysis import importance, pairs

QUICK = pairs.Effort(600, 250, ({"max_depth": 2, "n_estimators": 5},))


@pytest.mark.slow
def test_the_metric_that_makes_the_loss_has_the_largest_share_at_every_leaf_size(tmp_path: Path) -> None:
    log = pairs.read(write_log(tmp_path / "r", 250, 0))
    shares = pairs.importances(log, QUICK)
    assert set(shares["leaf"]) == set(pairs.LEAVES) and (shares["n"] == 600).all()
    for _, group in shares.groupby("leaf"):
        assert tuple(group["name"]) == importance.METRICS
        assert group.set_index("name")["share"].idxmax() == "brightness"
        assert group.set_index("name")["share"]["brightness"] > 0.6


def test_a_leaf_size_that_few_rows_cannot_be_cut_by_is_left_out_and_a_handful_of_rows_says_nothing(
    tmp_path: Path,
) -> None:
    log = pairs.read(write_log(tmp_path / "r", 250, 0))
    shares = pairs.shares(log, 100, (1, 5, 60), trees=2)
    assert sorted(set(shares["leaf"])) == [1, 5]  # two leaves of 60 rows are more than 100 rows have
    assert (shares["n"] == 100).all()
    for few in (0, 1, 12):
        assert tuple(pairs.shares(log[:few], 100, (10,), trees=2)) == pairs.SHARES
        assert not len(pairs.shares(log[:few], 100, (10,), trees=2))


@pytest.mark.slow
def test_each_run_is_held_out_once_and_a_single_run_has_nothing_to_be_held_out_from(tmp_path: Path) -> None:
    logs = {f"r{seed}": pairs.read(write_log(tmp_path / f"r{seed}", 300, seed)) for seed in range(2)}
    table = pairs.predictabilities(logs, QUICK)
    assert table["run"].tolist() == ["r0", "r1"]
    assert (table["n_train"] == 250).all() and (table["n_test"] == 250).all()
    assert not len(pairs.predictabilities({"r0": logs["r0"]}, QUICK))


def test_a_run_without_a_choice_among_pairs_and_a_short_log_have_no_rows(tmp_path: Path) -> None:
    assert pairs.read(tmp_path) is None
    assert pairs.read(write_log(tmp_path / "one pair", 300, 0, views=2)) is None
    assert pairs.read(write_log(tmp_path / "short", pairs.LEAST - 1, 0)) is None
    sets = write_log(tmp_path / "crop sets", 300, 0)  # candidates that differ in what else they hold
    file = sets / "views" / "step-00000001.parquet"
    table = pyarrow.parquet.read_table(file)
    one = pa.array(np.zeros(len(table), np.int8))
    pyarrow.parquet.write_table(table.set_column(4, "a", one).set_column(5, "b", one), file)
    assert pairs.read(sets) is None


@pytest.mark.parametrize("loss", [-1.0, 0.5])
def test_a_collapsed_network_has_no_importances_and_no_predictability(tmp_path: Path, loss: float) -> None:
    log = pairs.read(write_log(tmp_path / "r", 300, 0))
    log["loss"] = loss + 1e-7 * np.random.default_rng(0).normal(size=len(log))
    log["chosen"] = log["candidate"] == 0
    assert not len(pairs.importances(log, QUICK))
    assert not len(pairs.predictabilities({"r0": log, "r1": log}, QUICK))


def test_the_spread_over_runs_is_that_of_the_forest_of_each_run(tmp_path: Path) -> None:
    logs = {f"r{seed}": pairs.read(write_log(tmp_path / f"r{seed}", 220, seed)) for seed in (0, 1)}
    result = pairs.by_leaf(logs, 200, (1, 60), trees=2)
    assert set(result["leaf"]) == {1}  # of 100 rows each, none has two leaves of 60
    each = [pairs.shares(log, 100, [1], 2).set_index("name")["share"] for log in logs.values()]
    for row in result.itertuples():
        values = [float(one[row.name]) for one in each]
        assert (row.mean, row.min, row.max) == pytest.approx((sum(values) / 2, min(values), max(values)))
        assert row.runs == 2


def test_windows_of_epochs_cover_all_and_one_without_pairs_is_absent(tmp_path: Path) -> None:
    log = pairs.read(write_log(tmp_path / "r", 260, 0))  # epochs 0 to 5, the last of 10 images
    result = pairs.by_epoch({"r": log}, 150, 10, trees=2, windows=3)
    assert sorted(set(result["epoch"])) == [0.5, 2.5, 4.5]
    middle = pairs.shares(log[log["epoch"].isin([2, 3])], 150, [10], 2).set_index("name")["share"]
    assert result[result["epoch"] == 2.5].set_index("name")["mean"].to_dict() == pytest.approx(middle.to_dict())
    constant = log.assign(loss=log["loss"].where(log["epoch"] > 1, 0.5))
    assert sorted(set(pairs.by_epoch({"r": constant}, 150, 10, trees=2, windows=3)["epoch"])) == [2.5, 4.5]


def test_the_parts_of_the_variance_add_up_and_each_made_kind_is_found_where_it_was_put(tmp_path: Path) -> None:
    log = pairs.read(write_log(tmp_path / "r", 240, 0)).assign(run="r")
    assert pairs.parts(log).sum() == pytest.approx(1)
    noise = np.random.default_rng(0).random(len(log)) - 0.5
    image = np.random.default_rng(1).random(240)[log["index"]]
    for name, loss in (("epochs and seeds", log["epoch"]), ("images", image), ("pairs of an image", noise)):
        assert pairs.parts(log.assign(loss=loss.astype(float)))[name] > 0.8
    within = pairs.within_image(log).groupby(["step", "index"])["loss"].mean()
    assert np.abs(within).max() < 1e-6
