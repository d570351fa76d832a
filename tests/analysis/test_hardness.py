"""One axis of hardness: percentiles, rank correlations against scipy, and the ledger against the log it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hardlab.analysis import hardness, viewlog
from hardlab.analysis.catalog import Catalog
from hardlab.types import HardlabError


def test_percentiles_are_the_ranks_of_a_batch_on_one_axis():
    loss = np.array([[0.3, 10.0, 0.1, 0.2], [5.0, 5.0, 1.0, 9.0]])
    assert hardness.percentiles(loss).tolist() == [[62.5, 87.5, 12.5, 37.5], [50, 50, 12.5, 87.5]]
    assert (hardness.percentiles(np.exp(loss) - 7) == hardness.percentiles(loss)).all()  # a method's scale is nothing
    panel = hardness.panel({"a": loss, "b": loss[:1]}, rows=[5, 6, 7, 9])
    assert panel["a"].tolist() == [56.25, 68.75, 12.5, 62.5] and list(panel.index) == [5, 6, 7, 9]


def test_rank_correlations_are_spearmans_with_an_interval_that_holds_them():
    rng = np.random.default_rng(0)
    image = rng.normal(size=200)  # what makes an image hard, for the first two alone

    def of(weight):
        return weight * image + rng.normal(size=(20, 200))

    losses = {"a": of(1.0), "b": np.exp(of(1.0)), "c": of(0.0)}
    table = hardness.transfer(losses, resamples=200).set_index(["a", "b"])
    means = {name: hardness.percentiles(x).mean(0) for name, x in losses.items()}
    for a, b in (("a", "b"), ("a", "c")):
        assert table.loc[(a, b), "rho"] == pytest.approx(stats.spearmanr(means[a], means[b]).statistic)
        assert table.loc[(a, b), "lo"] < table.loc[(a, b), "rho"] < table.loc[(a, b), "hi"]
    assert table.loc[("a", "b"), "rho"] > 0.85 and table.loc[("a", "b"), "n"] == 200
    assert table.loc[("a", "c"), "lo"] < 0 < table.loc[("a", "c"), "hi"]
    # twenty draws of signal 1 and noise 1 repeat themselves at 20 / 21
    assert table.loc[("a", "a"), "rho"] == pytest.approx(20 / 21, abs=0.03)
    assert abs(table.loc[("c", "c"), "rho"]) < 0.35


def test_other_images_and_single_draws_are_refused():
    with pytest.raises(HardlabError, match="same images"):
        hardness.transfer({"a": np.zeros((2, 5)), "b": np.zeros((2, 6))})
    with pytest.raises(HardlabError, match="at least 2 draws"):
        hardness.transfer({"a": np.zeros((1, 5)), "b": np.zeros((2, 5))})


def test_a_trained_method_judges_one_batch_the_same_way_each_time(trained: dict[str, Path]):
    rows = np.arange(10, 34)
    for path in trained.values():
        loss = hardness.losses(path, rows, draws=3)
        assert loss.shape == (3, 24) and np.isfinite(loss).all()
        assert (loss == hardness.losses(path, rows, draws=3)).all()
        assert (loss != hardness.losses(path, rows, draws=3, seed=1)).any()
    with pytest.raises(HardlabError, match="at least 2 rows"):
        hardness.losses(path, [0, 10**6])


def test_methods_are_compared_on_the_images_that_the_catalogue_says_both_were_trained_on(trained: dict[str, Path]):
    names = [path.name for path in trained.values()]
    catalog = Catalog(next(iter(trained.values())).parent)
    losses = hardness.together(catalog, names, range(16), draws=2)
    assert list(losses) == names and {x.shape for x in losses.values()} == {(2, 16)}
    with pytest.raises(HardlabError, match="simsiam-hv"):
        hardness.together(catalog, [names[0], "simsiam-hv"], range(16))
    catalog.manifests[names[1]]["data"]["digest"] = "another"
    with pytest.raises(HardlabError, match="trained on different images"):
        hardness.together(catalog, names, range(16))


def test_the_learned_negatives_are_those_of_the_checkpoint(trained: dict[str, Path]):
    one = hardness.losses(trained["adco"], np.arange(32), draws=1)
    two = hardness.losses(trained["adco"], np.arange(32), draws=1)
    assert (one == two).all()  # a fresh bank would be another one each time


def test_the_ledger_is_every_candidate_with_its_run_and_percentile(trained: dict[str, Path]):
    book = hardness.ledger(trained["adco"].parent)
    logs = {name: viewlog.metrics(viewlog.read(path)) for name, path in trained.items()}
    assert len(book) == sum(map(len, logs.values()))
    hvs = book.query("recipe == 'simsiam-hvs'").reset_index(drop=True)
    log = logs["simsiam-hvs"]
    assert hvs["loss"].tolist() == log["loss"].tolist() and hvs["iou"].tolist() == log["iou"].tolist()
    assert hvs["chosen"].mean() == pytest.approx(1 / 6)
    step = log[log["step"] == log["step"].iloc[-1]]
    expected = 100 * (stats.rankdata(step["loss"]) - 0.5) / len(step)
    assert hvs["percentile"][log["step"] == log["step"].iloc[-1]].to_numpy() == pytest.approx(expected)
    # what hard view selection takes is harder than what it leaves
    by = hvs.groupby("chosen")["percentile"].mean()
    assert by[True] > by[False] + 10


def test_a_folder_without_a_log_is_refused(tmp_path: Path):
    with pytest.raises(HardlabError, match="no finished run with a view log"):
        hardness.ledger(tmp_path)
