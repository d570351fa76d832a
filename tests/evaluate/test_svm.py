"""Linear SVMs against LIBLINEAR itself and the optimum of their objective; average precision against definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC, _liblinear

from hardlab.evaluate import svm
from hardlab.evaluate.features import Features
from hardlab.evaluate.protocols import given, run_protocol
from hardlab.evaluate.published import COSTS, PROTOCOLS
from hardlab.types import HardlabError


def make(n=150, q=60, d=10, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=g)
    y, t = torch.arange(n) % classes, torch.arange(q) % classes
    return centres[y] + 1.3 * torch.randn(n, d, generator=g), y, centres[t] + 1.3 * torch.randn(q, d, generator=g), t


def several(n, classes, seed):
    """Labels of several classes an image, some of them difficult."""
    hot = np.random.default_rng(seed).choice([0, 0, 1, -1], (n, classes), p=[0.3, 0.3, 0.3, 0.1]).astype(np.int8)
    hot[: 2 * classes] = 0
    hot[np.arange(classes), np.arange(classes)] = 1
    return hot


def test_features_are_divided_by_their_norm_plus_1e_5():
    f = torch.randn(5, 3)
    expected = f.double() / (f.double().norm(dim=1, keepdim=True) + 1e-5)
    np.testing.assert_allclose(svm.normalised(f), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("cost", [0.5, 10.0])
def test_the_machine_is_liblinear_called_directly(cost):
    x, hot = svm.normalised(make()[0]), svm.one_hot(make()[1], 4)[:, 0]
    ours = svm.fit(x, hot, cost, seed=3)
    sign = np.where(hot > 0, 1.0, 0.0)  # the index of the class in (-1, +1)
    weights = np.array([1.0, 2.0])
    raw, _ = _liblinear.train_wrap(
        np.ascontiguousarray(x), sign, False, 1, 1e-4, 1.0, cost, weights, 2000,
        np.random.RandomState(3).randint(np.iinfo("i").max), 0.1, np.ones(len(x)),
    )  # fmt: skip
    np.testing.assert_array_equal(ours.coef_[0], raw[0, :-1])
    np.testing.assert_array_equal(ours.intercept_, raw[:, -1])


def test_the_machine_minimises_half_the_weights_plus_c_times_the_weighted_squared_hinge():
    x, hot = svm.normalised(make()[0]), svm.one_hot(make()[1], 4)[:, 1]
    sign = np.where(hot > 0, 1, -1)

    def objective(w):
        slack = np.maximum(0, 1 - sign * (x @ w[:-1] + w[-1]))
        return 0.5 * w @ w + 0.5 * np.sum(np.where(sign > 0, 2, 1) * slack**2)

    best = minimize(objective, np.zeros(11), tol=1e-12)
    ours = svm.fit(x, hot)
    np.testing.assert_allclose([*ours.coef_[0], *ours.intercept_], best.x, atol=2e-3)


def test_images_that_show_a_class_only_as_difficult_are_left_out_of_its_machine():
    x, hot = svm.normalised(make()[0]), several(150, 4, 0)
    known = hot[:, 2] >= 0
    peer = svm.fit(x[known], hot[known, 2])
    np.testing.assert_array_equal(svm.fit(x, hot[:, 2]).coef_, peer.coef_)
    assert not np.array_equal(svm.fit(x, np.maximum(hot[:, 2], 0)).coef_, peer.coef_)


def test_of_several_costs_threefold_cross_validation_takes_the_best():
    x, hot = svm.normalised(make(n=60)[0]), svm.one_hot(make(n=60)[1], 4)[:, 3]
    sign, costs = np.where(hot > 0, 1, -1), (1e-4, 0.01, 1.0, 100.0)
    mean = []
    for c in costs:
        each = []
        for train, test in StratifiedKFold(3).split(x, sign):
            machine = LinearSVC(C=c, class_weight={1: 2, -1: 1}, max_iter=2000, dual=True, random_state=0)
            machine.fit(x[train], sign[train])
            each.append(average_precision_score(sign[test] > 0, machine.decision_function(x[test])))
        mean.append(np.mean(each))
    assert costs[int(np.argmax(mean))] == svm.fit(x, hot, costs).C
    with pytest.raises(HardlabError, match="2 images on one side"):
        svm.fit(x, np.arange(60) < 2, costs)


def test_goyals_costs_are_powers_of_ten_and_of_a_half():
    assert len(COSTS) == 26
    assert {1e-7, 1.0, 100.0, 0.5**4, 0.5**19} <= set(COSTS)


def envelope(positive, scores):
    """The cited code's AP, image by image."""
    order = np.argsort(-scores)
    hits, recall, precision = 0, [0.0], [0.0]
    for rank, i in enumerate(order, 1):
        hits += bool(positive[i])
        recall.append(hits / positive.sum())
        precision.append(hits / rank)
    recall.append(1.0)
    precision.append(0.0)
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def test_the_ap_of_a_class_is_the_area_under_the_envelope():
    rng = np.random.default_rng(0)
    for _ in range(20):
        hot, scores = (rng.random(40) < 0.3).astype(np.int8), rng.standard_normal(40)
        hot[0] = 1
        assert svm.class_ap(hot, scores) == pytest.approx(envelope(hot, scores))
        ties = scores.round()
        precision, recall, _ = precision_recall_curve(hot, ties)  # from recall 1 down to 0
        raised = np.maximum.accumulate(precision)
        assert svm.class_ap(hot, ties) == pytest.approx(-np.sum(np.diff(recall) * raised[:-1]))


def test_equal_scores_and_difficult_images_do_not_depend_on_the_order_of_the_images():
    hot, scores = several(80, 1, 1)[:, 0], np.random.default_rng(1).integers(0, 4, 80).astype(float)
    order = np.random.default_rng(2).permutation(80)
    assert svm.class_ap(hot, scores) == svm.class_ap(hot[order], scores[order])
    known = hot >= 0
    assert svm.class_ap(hot, scores) == svm.class_ap(hot[known], scores[known])
    assert np.isnan(svm.class_ap(np.zeros(5, np.int8), np.arange(5.0)))


def test_adcos_number_is_scikit_learns_ap_of_each_image_over_its_classes():
    hot, scores = several(50, 6, 3), np.random.default_rng(3).standard_normal((50, 6))
    shown = (hot > 0).any(1)
    each = [average_precision_score(h > 0, f) for h, f in zip(hot[shown], scores[shown], strict=True)]
    assert svm.image_ap(hot, scores) == pytest.approx(np.mean(each))


def test_both_readings_of_low_shot_draw_what_they_say():
    hot = svm.one_hot(torch.arange(400) % 5, 5)
    union = svm.draw(hot, 4, "union", 7)
    assert all(np.array_equal(r, union[0]) for r in union)
    assert hot[union[0]].sum(0).tolist() == [4] * 5
    for c, rows in enumerate(svm.draw(hot, 4, "own", 7)):
        assert len(np.unique(rows)) == len(rows) == 80 and hot[rows, c].sum() == 4
    assert all(
        np.array_equal(a, b) for a, b in zip(svm.draw(hot, 4, "own", 7), svm.draw(hot, 4, "own", 7), strict=True)
    )
    assert not np.array_equal(union[0], svm.draw(hot, 4, "union", 8)[0])
    assert [hot[r, c].sum() for c, r in enumerate(svm.draw(hot, 40, "own", 0))] == [40] * 5  # all 320 negatives


def test_a_protocol_reports_each_class_their_mean_and_adcos_number_on_labels_of_several_classes():
    train_f, y, test_f, t = make()
    hot, test_hot = several(150, 3, 4), several(60, 3, 5)
    task = given(*Features(train_f, y, test_f, t, torch.tensor(hot), torch.tensor(test_hot), ("cat", "dog", "cow")))
    value = {r["metric"]: r["value"] for r in run_protocol("svm", task).rows}
    scores = svm.scores(svm.normalised(train_f), hot, svm.normalised(test_f))
    each = [svm.class_ap(test_hot[:, c], scores[:, c]) for c in range(3)]
    assert [value[f"ap:{name}"] for name in ("cat", "dog", "cow")] == each
    assert value["mAP"] == pytest.approx(np.mean(each))
    assert value["ap-per-image"] == svm.image_ap(test_hot, scores)


def test_low_shot_is_the_mean_and_the_deviation_of_its_draws_and_leaves_out_shots_that_do_not_fit():
    parts = make(n=44)
    rows = {r["metric"]: r["value"] for r in run_protocol("svm-low-shot", given(*parts), draws=3).rows}
    assert {m for m in rows if m.startswith("mAP@")} == {"mAP@k=2", "mAP@k=4", "mAP@k=8"}  # 11 images a class
    hot, test_hot = svm.one_hot(parts[1], 4), svm.one_hot(parts[3], 4)
    x, q, each = svm.normalised(parts[0]), svm.normalised(parts[2]), []
    for i in range(3):
        scores = svm.scores(x, hot, q, rows=svm.draw(hot, 4, "union", i))
        each.append(np.mean([svm.class_ap(test_hot[:, c], scores[:, c]) for c in range(4)]))
    assert rows["mAP@k=4"] == pytest.approx(np.mean(each)) and rows["mAP-sd@k=4"] == pytest.approx(np.std(each))


def test_the_published_low_shot_has_five_draws_of_two_to_32_images():
    for name, reading in (("svm-low-shot", "union"), ("svm-low-shot-goyal", "own")):
        assert dict(PROTOCOLS[name].settings) == {
            "shots": (2, 4, 8, 16, 32), "draws": 5, "reading": reading, "c": 0.5,
        }  # fmt: skip


def test_a_class_without_a_positive_or_negative_image_is_refused_in_one_sentence():
    train_f, y, test_f, t = make()
    for fill, what in ((0, "shows"), (1, "lacks")):
        hot = torch.tensor(svm.one_hot(y, 4))
        hot[:, 2] = fill
        with pytest.raises(HardlabError, match=f"no training image {what} class 2"):
            run_protocol("svm", given(train_f, y, test_f, t, hot, torch.tensor(svm.one_hot(t, 4))))
