"""The microscope on negatives: known clouds of points, and what MoCo and AdCo leave in their snapshots."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import openTSNE
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from small_runs import small_run

from hardlab import nets, recipes, registry, train
from hardlab.analysis import negatives
from hardlab.analysis.negatives import Bank, Reals
from hardlab.hard.base import Hard
from hardlab.methods.moco import MoCo
from hardlab.negatives import Around, Borrowed, Queue
from hardlab.types import HardlabError


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def circle(*degrees):
    at = np.deg2rad(degrees)
    return np.stack([np.cos(at), np.sin(at)], axis=1)


def cloud(n, seed, spread=0.3, dim=6):
    """Unit vectors around the first axis."""
    return unit(np.eye(dim)[0] + spread * np.random.default_rng(seed).normal(size=(n, dim)))


def bank(negs, queries, rows=None, ages=None, step=0):
    rows = np.arange(len(queries)) if rows is None else np.array(rows)
    return Bank(step, negs, queries, rows, np.full(len(negs), 2.0), ages)


def saved(folder: Path, name: str, **arrays) -> None:
    (folder / "snapshots").mkdir(parents=True, exist_ok=True)
    np.savez(folder / "snapshots" / name, **arrays)


def test_distances_and_hardness_on_a_circle():
    one = bank(circle(10, 95, 200), circle(0, 30, 90), rows=[7, 8, 9])
    table = negatives.microscope(one)
    assert list(table["query"]) == [7, 9, 9]
    angles = np.deg2rad([10, 5, 110])
    assert table["hardness"].to_numpy() == pytest.approx(np.cos(angles))
    assert table["distance"].to_numpy() == pytest.approx(2 * np.sin(angles / 2))
    # queries are 30, 30 and 60 degrees from their nearest other one
    assert list(table["outlier"]) == [False, False, True]
    assert list(negatives.microscope(one, quantile=0.01)["outlier"]) == [False, False, True]
    assert table["age"].isna().all() and (table["norm"] == 2).all()


def test_a_sample_of_the_queries_scores_chance_and_a_far_cloud_scores_one(tmp_path: Path):
    together = cloud(4000, 0)
    queries, same = together[:2000], together[2000:]
    rows = np.arange(2000)
    saved(tmp_path / "run", "adco-00000004.npz", negatives=-same, queries=queries, query_rows=rows)
    saved(tmp_path / "run", "adco-00000012.npz", negatives=same, queries=queries, query_rows=rows)
    far, near = negatives.outliers([tmp_path / "run"], quantile=0.9, resamples=50).to_dict("records")
    assert (far["step"], far["share"], far["lo"], far["hi"]) == (4, 1, 1, 1)
    assert (near["step"], near["run"], near["negatives"]) == (12, "run", 2000)
    assert near["share"] == pytest.approx(0.1, abs=0.03) and near["chance"] == pytest.approx(0.1)
    assert near["lo"] < near["share"] < near["hi"] < near["lo"] + 0.08
    for row, sign in ((far, -1), (near, 1)):
        nearest = [(sign * same @ q).max() for q in queries]
        assert row["query_hardest"] == pytest.approx(np.median(nearest), abs=1e-6)


def test_a_run_without_negatives_is_refused(tmp_path: Path):
    saved(tmp_path, "gan-00000004.npz", g=np.zeros(3))
    with pytest.raises(HardlabError, match="kept no negatives"):
        negatives.banks(tmp_path)


def test_a_false_negative_has_the_querys_label_by_its_nearest_real_image():
    real = Reals(circle(0, 90, 180), np.array([3, 5, 8]), np.array([0, 1, 2]))
    one = bank(circle(5, 85, 175, 95), circle(2, 88, 178), rows=[3, 5, -1])
    near = negatives.nearest_real(one, real)
    assert list(near["image"]) == [3, 5, 8, 5] and list(near["label"]) == [0, 1, 2, 1]
    hard, every = negatives.false_negatives(one, real, hardest=2, resamples=20).to_dict("records")
    # query 3: nearest are 5 (own label) and 85 degrees; query 5: 85 and 95, both its own; the third has no label
    assert hard["share"] == pytest.approx((0.5 + 1) / 2) and hard["n"] == 2
    assert every["share"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert hard["lo"] <= hard["share"] <= hard["hi"]


def test_a_layout_starts_from_the_last_one_and_so_stays_where_it_was():
    a, b = cloud(60, 1), -cloud(40, 2)
    first = bank(a, b)
    rng = np.random.default_rng(3)
    later = bank(unit(a + 0.02 * rng.normal(size=a.shape)), unit(b + 0.02 * rng.normal(size=b.shape)))
    one, two = negatives.layouts([first, later], perplexity=10, iterations=60)
    assert one.shape == two.shape == (100, 2)
    alone = negatives.layouts([later], perplexity=10, iterations=60)[0]
    moved, apart = (np.linalg.norm(one - x, axis=1).mean() for x in (two, alone))
    assert moved < 0.3 * one.std() and moved < 0.5 * apart
    # the two groups are two islands
    split = np.linalg.norm(two[:60].mean(0) - two[60:].mean(0))
    assert split > 2 * max(two[:60].std(0).max(), two[60:].std(0).max())
    # the keys of a queue are others each time: their places are taken from their neighbours
    turned = bank(later.negatives[::-1], b, ages=np.arange(60))
    mixed = negatives.layouts([first, turned], perplexity=10, iterations=60)[1]
    assert np.linalg.norm(mixed[:60].mean(0) - one[:60].mean(0)) < one.std()


@pytest.mark.slow
def test_runs_of_moco_and_of_adco_can_be_put_under_the_microscope(tmp_path: Path):
    for name, ages in (("adco-queue", True), ("adco", False)):
        run = small_run(name, **{"data": {"name": "shapes", "fraction": 0.05}, "method.dim": 8})
        path = train.train(run, tmp_path, device="cpu", say=lambda line: None)
        last = negatives.banks(path)[-1]
        assert last.negatives.shape == (64, 8) and last.queries.shape == (192, 8)
        assert np.linalg.norm(last.negatives, axis=1) == pytest.approx(1, abs=1e-4)
        assert (last.ages is not None) == ages and last.rows.min() >= 0
        real = negatives.reals(path, last.step, count=50)
        assert set(last.rows) <= set(real.rows) and real.vectors.shape == (len(real.rows), 8)
        share = negatives.false_negatives(last, real, resamples=10)["share"]
        assert share.between(0, 1).all()
        assert math.isnan(negatives.microscope(last)["age"].mean()) != ages
        scores = negatives.scores(path)
        assert scores["step"].tolist() == [b.step for b in negatives.banks(path)]
        assert scores["false_all"].notna().tolist() == [False] * (len(scores) - 1) + [True]
        of_all = negatives.false_negatives(last, negatives.reals(path, last.step), resamples=10)["share"].iloc[1]
        assert scores["false_all"].iloc[-1] == pytest.approx(of_all)


def test_both_sides_of_the_distance_are_medians_of_cosines_beside_the_norm_that_decay_alone_would_leave(tmp_path: Path):
    small = {"data.fraction": 0.08, "batch_size": 32, "epochs": 3, "logs.checkpoint_every": 1, "method.queue": 64}
    folder = train.train(recipes.recipe("adco", "smoke", small), tmp_path, device="cpu", say=lambda line: None)
    table, kept = negatives.sides(folder), negatives.banks(folder)
    assert list(table["step"]) == [one.step for one in kept] == [12, 24, 36]
    for (_, row), one in zip(table.iterrows(), kept, strict=True):
        nearest = [max(float(n @ q) for q in one.queries) for n in one.negatives]
        hardest = [max(float(n @ q) for n in one.negatives) for q in one.queries]
        middle = [np.median([float(n @ q) for n in one.negatives]) for q in one.queries]
        expected = [np.median(nearest), np.median(hardest), np.median(middle), np.median(one.norms)]
        actual = row[["negative_nearest", "query_hardest", "query_middle", "norm"]].to_numpy(float)
        assert actual == pytest.approx(expected, abs=1e-5)
        assert 0 < row["mass"] < 1
    still = torch.nn.Parameter(torch.ones(1))
    opt = torch.optim.SGD([still], 3.0, momentum=0.9, weight_decay=1e-4)
    for step in range(1, 35):
        still.grad = torch.zeros(1)
        opt.step()
        assert negatives.decayed(step, 3.0, 0.9, 1e-4) == pytest.approx(still.item(), rel=1e-5)
    assert table["decayed"].iloc[-1] == pytest.approx(still.item(), rel=1e-5)  # two steps fill the bank
    queue = train.train(recipes.recipe("adco-queue", "smoke", small), tmp_path, device="cpu", say=lambda line: None)
    assert negatives.sides(queue)[["norm", "decayed", "mass"]].isna().all().all()


def test_moco_whose_negatives_another_keeps_has_no_queue_to_show():
    net = MoCo(nets.Tiny(width=4), dim=8, queue=16, bn="plain")
    assert len(net.negatives.ages()) == 16
    net.negatives = Borrowed(Queue(4, 8))
    assert net.snapshot(None, None) == {}


def test_the_nearest_points_are_scikit_learns_without_the_point_itself_even_among_copies():
    points = np.random.default_rng(0).standard_normal((300, 6))
    points[:40] = points[0]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rows, distances = negatives._nearest(points, 12)
    assert rows.shape == (300, 12) and (rows != np.arange(300)[:, None]).all()
    peer, _ = NearestNeighbors(n_neighbors=12).fit(points).kneighbors()
    np.testing.assert_allclose(distances, peer, atol=1e-6)
    np.testing.assert_allclose(distances, np.linalg.norm(points[rows] - points[:, None], axis=2))


def test_a_layout_by_scipys_transforms_is_the_one_by_numpys_and_opentsne_is_left_as_it_was():
    from openTSNE._matrix_mul import matrix_mul

    points = np.random.default_rng(0).standard_normal((80, 5))
    before, layouts = matrix_mul.np, []
    for transforms in (contextlib.nullcontext(), negatives._scipy_transforms(2)):
        layout = openTSNE.TSNEEmbedding(
            points[:, :2].copy(), openTSNE.affinity.PerplexityBasedNN(points, 10, method="exact", random_state=0),
            negative_gradient_method="fft", random_state=0,
        )  # fmt: skip
        with transforms:
            layouts.append(np.asarray(layout.optimize(20)))
    np.testing.assert_allclose(*layouts, rtol=1e-6)
    assert matrix_mul.np is before


class Mixed(Around):
    """MoCHi in small: the mean of the two nearest keys is one more negative."""

    def similarities(self, q, k):
        kept = super().similarities(q, k)
        nearest = self.stored()[kept.detach().topk(2, dim=1).indices]  # (N,2,D)
        made = torch.nn.functional.normalize(nearest.mean(1), dim=1)
        return torch.cat([kept, (q * made).sum(1, keepdim=True)], dim=1)


class Mixing(Hard):
    """A strategy of a reader's own: wraps the queue."""

    def install(self, method):
        method.negatives = Mixed(method.negatives)


def test_a_strategy_that_wraps_the_queue_keeps_its_check_its_snapshot_and_its_place_in_checkpoints(monkeypatch):
    monkeypatch.setitem(registry.HARD, "mixing", f"{__name__}:Mixing")
    mixing = {"hard": ["mixing"], "method.bn": "plain"}
    with pytest.raises(HardlabError, match=r"method\.queue=64 is not a multiple of the 48 keys"):
        train.open(small_run("moco", batch_size=48, **mixing), device="cpu")
    session = train.open(small_run("moco", **mixing), device="cpu")
    plain = train.open(small_run("moco", **mixing | {"hard": []}), device="cpu")
    batch = next(session.batches())
    steps = [train.step(s, batch) for s in (session, plain)]
    assert (steps[0].out.loss > steps[1].out.loss).all()  # one more negative, and a near one
    method = session.method
    kept = method.snapshot(session.data, session.look)
    assert torch.equal(kept["negatives"][:32], steps[0].out.t[1])
    assert {"ages", "queries", "query_rows"} < kept.keys()
    assert torch.equal(method.state_dict()["negatives.inner.keys"], kept["negatives"])
