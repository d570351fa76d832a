"""fANOVA: exact on each tree, right on functions whose shares are known, and in agreement with the package."""

import itertools
import json
import logging
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestRegressor

from benchmarks import record_fanova
from hardlab.analysis import importance
from hardlab.types import HardlabError

NAMES = list("abcd")


def known(n, seed=0):
    """A function of four uniform numbers, its values, and its variance shares by hand."""
    x = np.random.default_rng(seed).random((n, 4))
    c = x - 0.5
    y = 2 * c[:, 0] + c[:, 1] + 6 * c[:, 0] * c[:, 2] + 0.3 * np.sin(2 * np.pi * x[:, 3])
    variance = {"a": 4 / 12, "b": 1 / 12, "c": 0.0, "d": 0.09 / 2, "a x c": 36 / 144}
    return pd.DataFrame(x, columns=NAMES), y, {k: v / sum(variance.values()) for k, v in variance.items()}


def some_boxes(d=3, rows=60, leaf=3):
    x = np.random.default_rng(1).random((rows, d))
    y = x[:, 0] * x[:, 1] + np.sin(5 * x[:, -1])
    tree = RandomForestRegressor(1, min_samples_leaf=leaf, random_state=0).fit(x, y).estimators_[0]
    return importance.tree_boxes(tree, np.zeros(d), np.ones(d)), tree


def test_the_boxes_of_a_tree_fill_the_domain_and_give_its_predictions():
    boxes, tree = some_boxes()
    assert boxes.width.prod(1).sum() == pytest.approx(1)
    points = np.random.default_rng(2).random((200, 3))
    inside = ((points[:, None] > boxes.lo) & (points[:, None] <= boxes.hi)).all(2)  # (200,L)
    assert (inside.sum(1) == 1).all()
    assert inside @ boxes.value == pytest.approx(tree.predict(points))


def test_main_effects_and_pairs_equal_loops_over_the_cells_of_each_marginal():
    boxes, _ = some_boxes()
    volume = boxes.width.prod(1)
    mean = volume @ boxes.value
    total = sum(v * (f - mean) ** 2 for v, f in zip(volume, boxes.value, strict=True))

    def marginal(dims):
        grids = [np.unique(np.r_[boxes.lo[:, j], boxes.hi[:, j]]) for j in dims]
        out = 0.0
        for cell in itertools.product(*(range(len(g) - 1) for g in grids)):
            middle = [(g[i] + g[i + 1]) / 2 for g, i in zip(grids, cell, strict=True)]
            size = np.prod([g[i + 1] - g[i] for g, i in zip(grids, cell, strict=True)])
            height = 0.0
            for lo, hi, f in zip(boxes.lo, boxes.hi, boxes.value, strict=True):
                if all(lo[j] < m <= hi[j] for j, m in zip(dims, middle, strict=True)):
                    height += f * np.prod([hi[j] - lo[j] for j in range(3) if j not in dims])
            out += size * (height - mean) ** 2
        return out / total

    shares = importance.decompose(boxes, [(0, 1), (1, 2)])
    for j in range(3):
        assert shares[j,] == pytest.approx(marginal((j,)), abs=1e-10)
    for j, k in ((0, 1), (1, 2)):
        assert shares[j, k] == pytest.approx(marginal((j, k)) - marginal((j,)) - marginal((k,)), abs=1e-10)


def test_a_marginal_swept_in_many_stripes_is_the_one_swept_in_one(monkeypatch):
    boxes, _ = some_boxes(rows=400, leaf=1)
    whole = importance.decompose(boxes, [(0, 1)])
    monkeypatch.setattr(importance, "_STRIPE", 500)
    assert importance.decompose(boxes, [(0, 1)])[0, 1] == pytest.approx(whole[0, 1], abs=1e-12)


def test_the_effects_of_a_tree_of_two_numbers_add_up_to_one():
    boxes, _ = some_boxes(d=2)
    assert sum(importance.decompose(boxes, [(0, 1)]).values()) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(("backend", "rows"), [("forest", 6000), pytest.param("xgboost", 6000, marks=pytest.mark.slow)])
def test_known_shares_are_found(backend, rows):
    x, y, expected = known(rows)
    table = importance.importance(x, y, backend=backend, leaf=1, max_features=1.0, pairs=True)
    for effect, share in table.set_index("effect")["share"].items():
        assert share == pytest.approx(expected.get(effect, 0.0), abs=0.03 if " x " in effect else 0.02), effect


def test_the_package_finds_known_shares_and_ours_agrees_with_it_on_the_same_forest_size():
    pytest.importorskip("fanova")
    handlers, level = list(logging.root.handlers), logging.root.level
    x = pd.DataFrame(np.random.default_rng(0).random((1000, 2)), columns=["a", "b"])
    c = x.to_numpy() - 0.5
    y = 2 * c[:, 0] + c[:, 1] + 6 * c[:, 0] * c[:, 1]
    variance = {"a": 4 / 12, "b": 1 / 12, "a x b": 36 / 144}
    settings = {"leaf": 2, "max_features": 1.0, "trees": 8, "pairs": True}
    package = importance.importance(x, y, backend="fanova", **settings)
    ours = importance.importance(x, y, **settings)
    assert (logging.root.handlers, logging.root.level) == (handlers, level)
    assert not hasattr(np, "float")
    for row in package.merge(ours, on="effect", suffixes=("", "_ours")).itertuples():
        expected = variance[row.effect] / sum(variance.values())
        assert row.share == pytest.approx(expected, abs=0.03 if row.order == 2 else 0.02), row.effect
        spread = (row.hi - row.lo) / 2 + (row.hi_ours - row.lo_ours) / 2
        assert abs(row.share - row.share_ours) <= max(0.01, spread), row.effect


@pytest.mark.parametrize("problem", record_fanova.PROBLEMS)
def test_ours_agrees_with_what_the_package_found_when_it_was_recorded(problem):
    recorded = pd.DataFrame(json.loads(record_fanova.FILE.read_text())["shares"][problem])
    both = recorded.merge(record_fanova.shares(problem, "forest"), on="effect", suffixes=("", "_ours"))
    assert len(both) == len(recorded) >= 3
    for row in both.itertuples():
        spread = (row.hi - row.lo) / 2 + (row.hi_ours - row.lo_ours) / 2
        assert abs(row.share - row.share_ours) <= max(0.01, spread), row.effect


def test_the_package_still_finds_what_was_recorded():
    pytest.importorskip("fanova")
    for problem in record_fanova.PROBLEMS:
        recorded = pd.DataFrame(json.loads(record_fanova.FILE.read_text())["shares"][problem])
        shares = record_fanova.shares(problem, "fanova")
        assert shares["share"].to_numpy() == pytest.approx(recorded["share"].to_numpy(), abs=1e-9)


@pytest.mark.parametrize("backend", ["forest", pytest.param("xgboost", marks=pytest.mark.slow)])
def test_a_column_that_never_changes_explains_nothing_and_disturbs_nothing(backend):
    x, y, _ = known(1000)
    plain = importance.importance(x, y, backend=backend, max_features=1.0).set_index("effect")["share"]
    more = importance.importance(x.assign(e=7.0), y, backend=backend, max_features=1.0).set_index("effect")["share"]
    assert abs(more["e"]) < 1e-12
    assert more.drop("e").to_dict() == pytest.approx(plain.to_dict(), abs=0.03)


@pytest.mark.slow
def test_the_bootstrap_interval_is_as_wide_as_the_spread_over_fresh_data():
    wide, shares = [], []
    for seed in range(12):
        x, y, _ = known(400, seed)
        table = importance.importance(x, y, leaf=5, max_features=1.0, trees=4, bootstrap=20 if seed < 3 else 0)
        shares.append(table["share"])
        if seed < 3:
            wide.append(table["boot_hi"] - table["boot_lo"])
            assert ((table["boot_lo"] < table["share"]) & (table["share"] < table["boot_hi"])).all()
            assert ((table["lo"] < table["share"]) & (table["share"] < table["hi"])).all()
            assert (table["n"] == 4).all()  # trees
    expected = 2 * 1.96 * np.std(shares, axis=0, ddof=1)
    assert 0.5 < np.mean(wide, axis=0)[0] / expected[0] < 2  # the effect that matters


@pytest.mark.parametrize("backend", ["forest", pytest.param("xgboost", marks=pytest.mark.slow)])
def test_flags_and_whole_numbers_have_the_shares_of_the_cells_around_their_values(backend):
    rows = 1000
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"flag": rng.integers(2, size=rows), "whole": rng.integers(5, size=rows), "x": rng.random(rows)})
    y = x["flag"] + 0.25 * x["whole"] + x["x"]
    # on [0, 4] the outer values fill half a cell: 0, 4 with weight 1/8, 1 to 3 with 1/4
    variance = np.array([1 / 4, 0.0625 * (2 * 4 / 8 + 2 * 1 / 4), 1 / 12])
    table = importance.importance(x, y, backend=backend, leaf=2, max_features=1.0, trees=8)
    assert table["share"].tolist() == pytest.approx((variance / variance.sum()).tolist(), abs=0.03)


def test_resamples_are_of_whole_groups_as_many_as_there_are():
    groups = np.array(["x", "y", "x", "z", "y", "y"])
    for rows in importance._resamples(6, groups, 20, 0):
        drawn = {g: np.bincount(rows, minlength=6)[groups == g] for g in "xyz"}
        assert all(len(set(times)) == 1 for times in drawn.values())
        assert sum(times[0] for times in drawn.values()) == 3
    alone = list(importance._resamples(6, None, 50, 0))
    assert all(len(rows) == 6 for rows in alone) and len({*np.concatenate(alone)}) == 6


def test_copies_of_the_same_rows_narrow_the_bootstrap_only_where_they_count_as_rows_of_their_own():
    x, y, _ = known(100)
    x, y, groups = pd.concat([x] * 6), np.tile(y, 6), np.tile(np.arange(100), 6)
    settings = {"leaf": 30, "max_features": 1.0, "trees": 2, "bootstrap": 20}
    rows, whole = (importance.importance(x, y, groups=g, **settings).iloc[0] for g in (None, groups))
    assert whole["boot_hi"] - whole["boot_lo"] > 1.2 * (rows["boot_hi"] - rows["boot_lo"])


def test_pairs_have_a_bootstrap_interval_and_smaller_forests_for_it_leave_the_shares_alone():
    x, y, _ = known(200)
    settings = {"leaf": 5, "max_features": 1.0, "pairs": True}
    plain = importance.importance(x, y, trees=6, **settings)
    table = importance.importance(x, y, trees=6, bootstrap=4, refit_trees=2, **settings)
    pd.testing.assert_frame_equal(pd.DataFrame(table[list(plain)]), pd.DataFrame(plain))
    again = importance.importance(x, y, trees=2, bootstrap=4, **settings)
    for side in ("boot_lo", "boot_hi"):  # the same refits, around another mean
        assert (table[side] - table["share"]).tolist() == pytest.approx((again[side] - again["share"]).tolist())
    assert (table["boot_hi"] > table["boot_lo"]).all() and set(table["order"]) == {1, 2}


def one_log():
    """Two pairs of one image and one of another, with strengths that are easy to reckon with."""
    drawn = {f"{s}_{p}": 0.0 for s in "ab" for p in importance.DRAWN}
    row = {"run": "r", "epoch": 0, "step": 1, "index": 5, "iou": 0.5, "centre_distance": 0.25, "colour_distance": 0.125}
    more = [{"a_hue": 0.1, "b_hue": -0.2, "a_gray": 1.0}, {"a_flip": 1.0, "b_flip": 1.0}]
    return pd.DataFrame([row | drawn | more[0], row | drawn | more[1], row | drawn | {"index": 6, "b_sigma": 0.3}])


def test_the_metrics_of_a_pair_are_distances_of_its_strengths_and_the_sum_of_the_papers_code():
    metrics = importance.metrics(one_log())
    assert tuple(metrics) == importance.METRICS
    assert metrics["hue"].tolist() == pytest.approx([0.3, 0, 0])
    assert metrics["all"].tolist() == pytest.approx([0.875 + 1, 0.875, 0.875 + 1])  # flags: gray, none, blur


def test_parameters_that_never_change_are_left_out_and_pairs_of_one_image_belong_together():
    assert set(importance.parameters(one_log())) == {"a_hue", "b_hue", "a_gray", "a_flip", "b_flip", "b_sigma"}
    assert importance.images(one_log()).tolist() == [0, 0, 1]


def test_what_cannot_be_decomposed_is_refused_in_one_sentence():
    x, y, _ = known(50)
    with pytest.raises(HardlabError, match="Did you mean 'forest'"):
        importance.importance(x, y, backend="forst")
    with pytest.raises(HardlabError, match="got 50 rows, 49 responses"):
        importance.importance(x, y[:-1])
    with pytest.raises(HardlabError, match="finite numbers"):
        importance.importance(x.assign(a=np.nan), y)
    with pytest.raises(HardlabError, match="no variance"):
        importance.importance(x, np.ones(50))


def test_backends_stand_side_by_side_in_per_cent() -> None:
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.random((200, 2)), columns=["a", "b"])
    compared = importance.backends(x, x["a"], ["forest"], trees=3, leaf=5)
    alone = importance.importance(x, x["a"], trees=3, leaf=5).set_index("effect")
    share, half = 100 * alone.loc["a", "share"], 50 * (alone.loc["a", "hi"] - alone.loc["a", "lo"])
    assert compared.loc["a", "forest, %"] == f"{share:.1f} ± {half:.1f}" and list(compared.index) == ["a", "b"]


def shapley_of_pairs(tree, row):
    """k-SII of order 2 of one tree, by loops over all sets: unknown columns split by the rows on each side."""
    t, d = tree.tree_, len(row)

    def value(known, node=0):
        left, right = t.children_left[node], t.children_right[node]
        if left < 0:
            return float(t.value[node].item())
        if t.feature[node] in known:
            return value(known, left if np.float32(row[t.feature[node]]) <= t.threshold[node] else right)
        share = t.weighted_n_node_samples[left] / t.weighted_n_node_samples[node]
        return share * value(known, left) + (1 - share) * value(known, right)

    def sets(of):
        return [set(c) for size in range(len(of) + 1) for c in itertools.combinations(of, size)]

    def weight(size, order):
        return math.factorial(size) * math.factorial(d - size - order) / math.factorial(d - order + 1)

    pairs = {}
    for j, k in itertools.combinations(range(d), 2):
        pairs[j, k] = sum(
            weight(len(s), 2) * (value(s | {j, k}) - value(s | {j}) - value(s | {k}) + value(s))
            for s in sets([i for i in range(d) if i not in (j, k)])
        )
    alone = {}
    for j in range(d):
        own = sum(weight(len(s), 1) * (value(s | {j}) - value(s)) for s in sets([i for i in range(d) if i != j]))
        alone[j,] = own - sum(v for pair, v in pairs.items() if j in pair) / 2
    return alone | pairs


@pytest.mark.slow
def test_shapley_interactions_of_the_same_trees_are_loops_over_all_sets_of_columns():
    pytest.importorskip("shapiq", reason="shapiq, of the extra shapiq, is not installed")
    rng = np.random.default_rng(3)
    x = pd.DataFrame(rng.random((120, 3)), columns=["a", "b", "c"])
    y = x["a"] + 3 * x["b"] * x["c"]
    settings = {"trees": 2, "leaf": 12, "max_features": 1.0, "seed": 1}
    table = importance.interactions(x, y, explained=120, **settings).set_index("effect")
    forest = RandomForestRegressor(2, min_samples_leaf=12, max_features=1.0, random_state=1).fit(x.to_numpy(), y)
    each = [[shapley_of_pairs(tree, row) for tree in forest.estimators_] for row in x.to_numpy()]
    for effect, key in {"a": (0,), "b": (1,), "c": (2,), "a x b": (0, 1), "a x c": (0, 2), "b x c": (1, 2)}.items():
        wanted = np.mean([abs(np.mean([one[key] for one in trees])) for trees in each])
        assert table.loc[effect, "shapley"] == pytest.approx(wanted, rel=1e-4), effect
    shares = importance.importance(x, y, pairs=True, **settings).set_index("effect")["share"]
    assert table["share"].to_dict() == pytest.approx(shares.to_dict())
    assert table.loc[["a x b", "a x c", "b x c"], "shapley"].idxmax() == "b x c"
