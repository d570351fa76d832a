"""Analyses of few, equal, rare, huge and mixed values: the right answer, or a refusal in one sentence."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from made_runs import choice_log
from sklearn.manifold import TSNE

from hardlab.analysis import evidence, gan, hardness, importance, negatives, pairs, predict, viewlog
from hardlab.analysis.intervals import interval
from hardlab.evaluate.average_precision import AveragePrecision
from hardlab.types import HardlabError

FAST = ({"max_depth": 4, "n_estimators": 30},)  # the trees that predict


def unit(n, d=16, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


# ---------------------------------------------------------------------------------------------- t-SNE


def divergence(points, flat, perplexity):
    """Kullback-Leibler from the definition: a bandwidth a point by bisection, symmetric p, Student q."""
    n = len(points)
    apart = ((points[:, None].astype(float) - points[None]) ** 2).sum(-1)
    p = np.zeros((n, n))
    for i in range(n):
        d, lo, hi = np.delete(apart[i], i), 1e-9, 1e9
        for _ in range(200):
            beta = np.sqrt(lo * hi)
            w = np.exp(-beta * (d - d.min()))
            w /= w.sum()
            entropy = -(w * np.log(w + 1e-300)).sum()
            lo, hi = (beta, hi) if entropy > np.log(perplexity) else (lo, beta)
        p[i, np.arange(n) != i] = w
    p = (p + p.T) / (2 * n)
    q = 1 / (1 + ((flat[:, None] - flat[None]) ** 2).sum(-1))
    np.fill_diagonal(q, 0)
    q /= q.sum()
    off = ~np.eye(n, dtype=bool)
    return float((p[off] * np.log(np.maximum(p[off], 1e-300) / q[off])).sum())


@pytest.mark.parametrize("n", [4, 5, 8, 12, 20, 60])
def test_few_points_are_laid_out_as_well_as_by_scikit_learn(n):
    for seed in range(2):
        points, perplexity = unit(n, seed=seed), min(30, (n - 1) / 3)
        flat = negatives.tsne(points)
        assert flat.shape == (n, 2) and 0.5 < flat.std() < 1000
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
        ours, theirs = (divergence(points, f.astype(float), perplexity) for f in (flat, peer))
        assert ours < theirs + 0.15


def test_copies_among_few_points_do_not_draw_all_onto_one_place():
    points = unit(10)
    points[5:] = points[:5]
    flat = negatives.tsne(points)
    assert flat.std() > 0.5
    assert np.linalg.norm(flat[5:] - flat[:5], axis=1).max() < np.linalg.norm(flat[0] - flat[1:5], axis=1).min()


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        (unit(3), "at least 4 points"),
        (unit(1), "at least 4 points"),
        (np.ones((30, 4), np.float32), "all 30 points are the same"),
        (np.full((30, 4), np.nan), "finite points"),
        (np.where(np.arange(64).reshape(16, 4) == 9, np.inf, 0.5), "finite points"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(points, sentence):
    with pytest.raises(HardlabError, match=sentence):
        negatives.tsne(points)


def test_a_layout_on_one_place_is_no_result():
    with pytest.raises(HardlabError, match=r"collapsed to one place|finite points"):
        negatives.tsne(unit(20), start=np.full((20, 2), 3.0), iterations=5)


def bank(tmp_path, negative, query):
    (tmp_path / "snapshots").mkdir(exist_ok=True)
    rows = np.arange(len(query))
    np.savez(tmp_path / "snapshots" / "adco-00000003.npz", negatives=negative, queries=query, query_rows=rows)
    return tmp_path


def test_snapshots_of_a_diverged_run_and_of_one_query_are_refused(tmp_path):
    broken = unit(8)
    broken[3, 3] = np.nan
    with pytest.raises(HardlabError, match="not finite: the run has diverged"):
        negatives.banks(bank(tmp_path, broken, unit(6)))
    with pytest.raises(HardlabError, match="one query"):
        negatives.outliers([bank(tmp_path, unit(8), unit(1))], resamples=0)


def test_a_negative_of_zeros_has_a_place_in_the_picture(tmp_path):
    zero = unit(8)
    zero[2] = 0
    picture = negatives.picture(bank(tmp_path, zero, unit(6, seed=1)))
    assert np.isfinite(picture[["x", "y"]]).all(axis=None) and picture["distance"][2] == 1


def test_the_picture_of_a_collapsed_network_has_distances_and_no_places(tmp_path):
    same = np.repeat(unit(1), 9, axis=0)
    picture = negatives.picture(bank(tmp_path, same, same[:5]))
    assert len(picture) == 14 and picture[["x", "y"]].isna().all(axis=None)
    assert picture["distance"][:9].to_numpy() == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------------------------------------- importance


BACKENDS = ["forest", "xgboost", pytest.param("fanova", marks=pytest.mark.slow)]
QUICK = {"trees": 6, "leaf": 5, "max_features": 1.0}


def columns(n=200, seed=0):
    return pd.DataFrame(np.random.default_rng(seed).random((n, 2)), columns=["a", "b"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3e200])
def test_a_constant_response_is_refused_alike_by_all(backend, value):
    if backend == "fanova":
        pytest.importorskip("fanova")
    with pytest.raises(importance.NothingToExplain, match=r"All 200 responses are .*no variance"):
        importance.importance(columns(), np.full(200, value), backend=backend)


def test_one_rare_value_is_explained_by_the_trees_that_saw_it():
    x = columns(400)
    y = np.zeros(400)
    y[x["a"].argmax()] = 1
    table = importance.importance(x, y, **QUICK).set_index("effect")
    forest = importance._forest(x.to_numpy(), y, [], seed=0, **QUICK)
    saw = [not np.isnan(shares).all() for shares in forest]
    assert 0 < sum(saw) < 6 and table["n"].tolist() == [sum(saw)] * 2
    assert table["share"]["a"] > table["share"]["b"]
    again = importance.importance(x, y, bootstrap=6, **QUICK)
    assert np.isfinite(again[["boot_lo", "boot_hi"]]).all(axis=None)


def test_leaves_too_large_for_any_cut_say_so_and_not_that_the_response_is_constant():
    with pytest.raises(
        importance.NothingToExplain, match="No tree makes a cut in 200 rows with at least 150 in a leaf"
    ):
        importance.importance(columns(), columns()["a"], trees=3, leaf=150)


@pytest.mark.parametrize("backend", ["forest", pytest.param("xgboost", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("scale", "shift"), [(1e-200, 0), (1e-12, 0), (1e200, 0), (1, 1e9), (1e-300, 0)])
def test_units_of_columns_and_response_do_not_matter(backend, scale, shift):
    x = columns()
    y = x["a"] + 0.3 * x["b"]
    expected = importance.importance(x, y, backend=backend, **QUICK)["share"]
    for columns_, response in ((x * scale + shift, y), (x, y * scale + shift)):
        shares = importance.importance(columns_, response, backend=backend, **QUICK)["share"]
        assert shares.tolist() == pytest.approx(expected.tolist(), abs=0.03)


def test_no_column_is_refused():
    with pytest.raises(HardlabError, match="at least 1 column"):
        importance.importance(columns()[[]], np.arange(200.0))


# ---------------------------------------------------------------------------------------------- prediction


def of_views(views, seed, images=60):
    """As ``test_predict.log``, of so many views."""
    whole = choice_log(images, seed, lambda iou, rng: rng.integers(6, size=len(iou)))
    if views == 4:
        return whole
    more = [whole.assign(candidate=whole["candidate"] + 6 * k, b=whole["b"] + k) for k in (0, 1)]
    both = pd.concat(more).drop_duplicates(["index", "a", "b"])
    kept = sorted(itertools.islice({(a, b) for a, b in zip(both["a"], both["b"], strict=True)}, 10))
    number = {pair: i for i, pair in enumerate(kept)}
    both["candidate"] = [number[a, b] for a, b in zip(both["a"], both["b"], strict=True)]
    return both.assign(chosen=both["candidate"] == both["index"] % len(kept))


def test_logs_of_other_numbers_of_views_are_refused_together_in_one_sentence():
    logs = [of_views(4, 0), of_views(4, 1), of_views(5, 2)]
    with pytest.raises(HardlabError, match=r"Log 2 has \d+ pairs of 5 views and log 0 has 6 of 4: predict runs"):
        predict.predictability(logs, grid=FAST)


def test_tables_part_runs_that_draw_other_views(monkeypatch):
    asked = []

    def spy(logs, grid):
        asked.append([len(predict.candidates(one)) for one in logs])
        return pd.DataFrame({"held_out": range(len(logs))})

    monkeypatch.setattr(predict, "predictability", spy)
    monkeypatch.setattr(pairs, "LEAST_CHOSEN", 1)
    logs = {"x": of_views(4, 0), "y": of_views(5, 1), "z": of_views(4, 2), "w": of_views(5, 3)}
    table = pairs.predictabilities(logs, pairs.SMOKE)
    assert table["run"].tolist() == ["x", "z", "y", "w"]
    assert len(asked) == 2 and asked[0] == [6, 6] and len(set(asked[1])) == 1


@pytest.mark.parametrize("rare", [1, 2, 4])
def test_a_pair_that_was_chosen_too_rarely_for_the_folds_is_named(rare):
    def choose(iou, rng):
        chosen = np.arange(len(iou)) % 5
        chosen[:rare] = 5
        return chosen

    logs = [choice_log(60, 0, choose), choice_log(60, 1, choose)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(HardlabError, match=rf"Pair \(2, 3\) was chosen in {rare} of 60 images .*folds \(5\)"):
            predict.predictability(logs)


@pytest.mark.parametrize(("column", "value"), [("a_height", 0.0), ("b_width", -1.0), ("a_width", np.nan)])
def test_a_crop_without_area_has_no_overlap(column, value):
    frame = choice_log(5, 0, lambda iou, rng: iou.argmin(1)).drop(columns=["iou", "centre_distance", "colour_distance"])
    frame.iloc[7, frame.columns.get_loc(column)] = value
    with pytest.raises(HardlabError, match="1 of 30 pairs of the view log have a crop without area"):
        viewlog.metrics(frame)


# ---------------------------------------------------------------------------------------------- intervals, generators


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_an_interval_scales_with_its_values(scale):
    values = np.array([1.0, 1.5, 1.25, 0.75])
    expected = np.array(interval(values)[:3])
    np.testing.assert_allclose(np.array(interval(values * scale)[:3]) / scale, expected, rtol=1e-9)


def test_intervals_of_no_one_equal_and_infinite_values():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interval([np.nan])[3] == 0 and np.isnan(interval([])[0])
        assert interval([0.0, 0.0, 0.0])[:3] == (0, 0, 0)
        mean, lo, hi, n = interval([1.0, np.inf])
    assert mean == np.inf and np.isnan([lo, hi]).all() and n == 2
    with pytest.raises(HardlabError, match="level of an interval must be between 0 and 1, not 95"):
        interval([1, 2], 95)


def test_images_of_one_grey_level_have_no_correlation():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 5, 5), dtype=np.uint8)
    dead = np.full_like(images, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alive, none = gan.twins([gan.Shot(1, images, images, {}), gan.Shot(2, dead, dead, {})]).to_dict("records")
        half = gan.twins([gan.Shot(3, np.concatenate([images, dead]), np.concatenate([images, dead]), {})])
        one = gan.twins([gan.Shot(4, images[:1], images[:1], {})])
    assert alive["correlation"] == pytest.approx(1) and half["correlation"][0] == pytest.approx(1)
    assert np.isnan([none["correlation"], none["lo"], none["others"], one["others"][0]]).all()


def test_losses_and_detections_of_diverged_networks_are_refused():
    losses = np.random.default_rng(0).random((4, 6))
    broken = losses.copy()
    broken[1, 2] = np.nan
    with pytest.raises(HardlabError, match="losses of b are not all finite"):
        hardness.transfer({"a": losses, "b": broken}, resamples=5)
    true = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([1])}
    with pytest.raises(HardlabError, match="detections of image 1 hold NaN"):
        AveragePrecision().add(true | {"scores": torch.tensor([float("nan")])}, true)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1.0, 1e150, 1e300])
def test_the_p_of_a_mean_does_not_depend_on_the_unit(scale):
    values = np.array([1.0, 2.0, 3.0, 2.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evidence.t_test(values * scale) == pytest.approx(evidence.t_test(values), rel=1e-9)


@pytest.mark.parametrize("setting", ["trees", "leaf", "max_features", "bootstrap"])
@pytest.mark.parametrize("value", [-1, "x", None, math.nan, 10**12])
def test_a_setting_of_an_importance_that_is_none_is_refused_by_its_name(setting, value):
    x, y = pd.DataFrame({"a": np.arange(30.0), "b": 1.0}), np.arange(30.0)
    with pytest.raises(HardlabError, match=f"^{setting} must be"):
        importance.importance(x, y, **{setting: value})


def test_texts_and_losses_without_draws_are_refused_in_one_sentence():
    with pytest.raises(HardlabError, match="defined for numbers only"):
        importance.importance(pd.DataFrame({"a": ["x", "y"]}), np.arange(2.0))
    with pytest.raises(HardlabError, match=r"The losses of a must be \(draws, images\), not \(9,\)"):
        hardness.transfer({"a": np.arange(9.0)})


def test_a_layout_takes_any_order_of_bytes_and_refuses_what_is_no_perplexity():
    points = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    expected = negatives.tsne(points, iterations=20)
    assert (negatives.tsne(points.astype(">f4"), iterations=20) == expected).all()
    for perplexity in ("thirty", None, 0, math.nan):
        with pytest.raises(HardlabError, match=r"^perplexity must be"):
            negatives.tsne(points, perplexity=perplexity)


@pytest.mark.filterwarnings("error")
def test_a_network_that_finds_all_images_equally_hard_agrees_with_none_and_one_image_is_no_comparison():
    varied = np.random.default_rng(0).normal(size=(4, 12))
    rows = hardness.transfer({"flat": np.ones((4, 12)), "varied": varied}).set_index(["a", "b"])
    assert rows.loc[("flat", "flat"), ["rho", "lo", "hi"]].isna().all()
    assert rows.loc[("flat", "varied"), ["rho", "lo", "hi"]].isna().all()
    assert rows.loc[("varied", "varied"), ["rho", "lo", "hi"]].notna().all()
    with pytest.raises(HardlabError, match="at least 2 images, not 1"):
        hardness.transfer({"one": varied[:, :1]})
