"""Features and labels at the edges of their types: the right answer, or a refusal in one sentence; never chance."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hardlab.evaluate import svm
from hardlab.evaluate.features import check_features, unit
from hardlab.evaluate.knn import knn, knn_predict
from hardlab.evaluate.linear import lbfgs, linear_probe
from hardlab.evaluate.protocols import given, run_protocol
from hardlab.types import HardlabError


def data(n=240, q=60, d=8, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=g)
    y, t = (torch.randint(0, classes, (m,), generator=g) for m in (n, q))
    y[:classes] = torch.arange(classes)
    x, z = (centres[labels] + 1.2 * torch.randn(len(labels), d, generator=g) for labels in (y, t))
    return x, y, z, t


def by_loop(train_f, train_y, test_f, k):
    """The classes that k neighbours vote for, in exact arithmetic of rows brought to a largest number of 1."""

    def line(row):
        row = [float(v) for v in row.double()]
        top = max(abs(v) for v in row) or 1.0
        row = [v / top for v in row]
        length = math.sqrt(sum(v * v for v in row)) or 1.0
        return [v / length for v in row]

    memory, out = [line(r) for r in train_f], []
    for query in map(line, test_f):
        near = sorted((-math.fsum(a * b for a, b in zip(query, m)), i) for i, m in enumerate(memory))[:k]
        votes = [0.0] * int(train_y.max() + 1)
        for cosine, i in near:
            votes[train_y[i]] += math.exp(-cosine / 0.07)
        out.append(votes.index(max(votes)))
    return out


SCALES = (1e-44, 1e-30, 1e-20, 1e-12, 1.0, 1e12, 1e20, 1e30, 1e37)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_knn_at_any_scale_is_a_loop_in_double_precision(scale, dtype):
    x, y, z, _ = data()
    x, z = ((f.double() * scale).to(dtype) for f in (x, z))
    assert knn_predict(x, y, z, k=15).argmax(1).tolist() == by_loop(x, y, z, 15)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 1e307])
def test_knn_of_doubles_beyond_single_precision_is_the_loop_too(scale):
    x, y, z, _ = data()
    x, z = x.double() * scale, z.double() * scale
    assert knn_predict(x, y, z, k=15).argmax(1).tolist() == by_loop(x, y, z, 15)


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e4])
def test_knn_in_half_precision_is_the_loop_on_what_half_precision_kept(scale):
    x, y, z, _ = data()
    x, z = (x * scale).half(), (z * scale).half()
    assert knn_predict(x, y, z, k=15).argmax(1).tolist() == by_loop(x, y, z, 15)


def test_rows_of_all_scales_and_of_zeros_stand_side_by_side():
    x, y, z, _ = data()
    sizes = torch.logspace(-40, 37, len(x), dtype=torch.float64)[:, None]
    mixed = (x.double() * sizes).float()
    mixed[5] = 0
    assert unit(mixed).norm(dim=1).isclose(torch.tensor(1.0), atol=1e-2).sum() == len(x) - 1  # subnormals keep few bits
    assert unit(mixed)[5].tolist() == [0] * 8
    assert knn_predict(mixed, y, z, k=15).argmax(1).tolist() == by_loop(mixed, y, z, 15)


def test_ordinary_rows_come_out_bit_for_bit_as_torch_normalises_them():
    x = data()[0] * torch.logspace(-9, 9, 240)[:, None]
    assert torch.equal(unit(x), torch.nn.functional.normalize(x, dim=1))


def test_features_that_are_not_contiguous_give_the_same_neighbours():
    x, y, z, t = data()
    assert knn(x.T.contiguous().T, y, z.T.contiguous().T, t, ks=(7,)) == knn(x, y, z, t, ks=(7,))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("evaluate", [knn, linear_probe, lbfgs])
def test_one_number_that_is_none_is_refused_in_any_type(value, dtype, evaluate):
    for half in (0, 2):
        parts = list(data())
        parts[half] = parts[half].to(dtype)
        parts[half][-1, -1] = value
        with pytest.raises(HardlabError, match="hold NaN or infinity"):
            evaluate(*parts)


def test_large_numbers_whose_sum_overflows_are_finite():
    x, y, z, t = data()
    big = x.sign() * 3e38
    assert check_features(big, y, big, y) == 3
    with pytest.raises(HardlabError, match="hold NaN or infinity"):
        check_features(torch.cat([big, torch.full((1, 8), math.inf)]), torch.cat([y, y[:1]]), z, t)


@pytest.mark.parametrize("scale", [1e7, 1e10, 1e20, 1e30, 1e37])
def test_the_converged_probe_of_large_features_is_scikit_learns_without_a_penalty(scale):
    x, y, z, t = data()
    peer = LogisticRegression(C=math.inf, tol=1e-8, max_iter=2000).fit(x.numpy(), y)
    probe = lbfgs(x * scale, y, z * scale, t)
    assert probe.top1[0] == pytest.approx(peer.score(z.numpy(), t), abs=1 / 60 + 1e-9)
    np.testing.assert_allclose(
        (probe.weight.double() * scale).numpy() - (probe.weight.double() * scale).mean(0).numpy(),
        peer.coef_ - peer.coef_.mean(0), atol=0.02,
    )  # fmt: skip


def test_the_converged_probe_at_another_scale_is_the_same_with_the_penalty_scaled_back():
    x, y, z, t = data()
    expected = lbfgs(x, y, z, t, c=0.5)
    for scale, c in ((2.0**30, 0.5 * 2.0**-60), (2.0**-30, 0.5 * 2.0**60)):
        probe = lbfgs(x * scale, y, z * scale, t, c=c)
        assert probe.objective == pytest.approx(expected.objective, rel=1e-5) and probe.top1 == expected.top1
        torch.testing.assert_close(probe.weight * scale, expected.weight, rtol=0, atol=2e-3)


def test_a_large_column_among_others_costs_them_nothing():
    x, y, z, t = data()
    size = torch.ones(8)
    size[2] = 1e20
    peer = LogisticRegression(C=1e6, tol=1e-8, max_iter=2000).fit(x.numpy(), y)
    assert lbfgs(x * size, y, z * size, t, c=1e6).top1[0] == pytest.approx(peer.score(z.numpy(), t), abs=1 / 60 + 1e-9)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-10])
@pytest.mark.parametrize("evaluate", [lbfgs, linear_probe])
def test_probes_refuse_features_too_small_to_learn_from(scale, evaluate):
    x, y, z, t = data()
    with pytest.raises(HardlabError, match="scale them"):
        evaluate(x * scale, y, z * scale, t)


def test_the_minibatch_probe_of_huge_features_learns_or_refuses():
    x, y, z, t = data()
    expected = linear_probe(x, y, z, t, epochs=5).top1[-1]
    for scale in (1e3, 1e6, 1e12, 1e20, 1e37):
        try:
            accuracy = linear_probe(x * scale, y, z * scale, t, epochs=5).top1[-1]
        except HardlabError as e:
            assert "diverged" in str(e) and scale > 1e6
        else:
            assert accuracy > expected - 0.15


def test_a_test_feature_beyond_all_others_is_no_silent_answer():
    x, y, z, t = data()
    z[3] = torch.tensor([3e38, -3e38] * 4)
    with pytest.raises(HardlabError, match="beyond float32"):
        lbfgs(0.01 * x, y, z, t, c=1e6)


@pytest.mark.parametrize("constant", [0.0, 7.0, 1e20])
def test_columns_that_do_not_change_and_dead_networks_give_the_class_frequencies(constant):
    x, y, z, t = data()
    majority = float((t == torch.bincount(y).argmax()).double().mean())
    assert lbfgs(torch.full_like(x, constant), y, torch.full_like(z, constant), t).top1[0] == majority
    x[:, 1], z[:, 1] = constant, constant
    if constant < 1e6:
        peer = LogisticRegression(tol=1e-8, max_iter=2000).fit(x.numpy(), y).score(z.numpy(), t)
        assert lbfgs(x, y, z, t).top1[0] == pytest.approx(peer, abs=1 / 60 + 1e-9)


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e5, 1e6])
def test_an_offset_costs_the_converged_probe_no_more_than_the_digits_that_it_takes(offset):
    x, y, z, t = data()
    kept = (x + offset).double() - offset
    peer = LogisticRegression(tol=1e-8, max_iter=2000).fit(kept.numpy(), y)
    probe = lbfgs(x + offset, y, z + offset, t)
    assert probe.top1[0] == peer.score(((z + offset).double() - offset).numpy(), t)
    np.testing.assert_allclose(probe.weight.numpy(), peer.coef_, atol=2e-3)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e-6, 1e20, 1e200])
def test_rows_for_an_svm_have_unit_length_at_any_scale(scale):
    x = data()[0].double()
    np.testing.assert_allclose(np.linalg.norm(svm.normalised(x * scale), axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(svm.normalised(x * scale), svm.normalised(x), atol=1e-3)
    assert not svm.normalised(torch.zeros(2, 3)).any()


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (lambda y: y.float(), "labels must be whole numbers of type int64.*float32"),
        (lambda y: y.int(), "labels must be whole numbers of type int64"),
        (lambda y: y * 10**12, "label 2000000000000 is too large"),
        (lambda y: y * 0, "2 classes are needed"),
    ],
)
def test_labels_of_another_kind_are_refused(labels, sentence):
    x, y, z, _ = data()
    for evaluate in (knn, lbfgs):
        with pytest.raises(HardlabError, match=sentence):
            evaluate(x, labels(y), z, y[:60] * 0)


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        *(("knn", {"ks": [k]}) for k in (5.5, 0, -1, True, 10**9, "three")),
        *(("knn", {"temperature": t}) for t in (0.0, -1.0, math.nan, math.inf)),
        *(("svm", {"c": c}) for c in (0.0, math.nan, math.inf, -1.0)),
        *(("svm-low-shot", {"shots": [k]}) for k in (0, 2.5, -3, True, 10**6)),
        *(("linear-lbfgs", {"c": c}) for c in (0.0, math.nan, math.inf)),
        *(("linear", {"lr": lr}) for lr in (0.0, math.nan, math.inf)),
        *(("linear", {name: value}) for name in ("weight_decay", "final_lr") for value in (-1.0, math.nan, math.inf)),
    ],
)
def test_settings_out_of_range_end_in_one_sentence(protocol, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(HardlabError):
            run_protocol(protocol, given(*data()), **options)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f, y: (f.numpy(), y), "training features must be a dense torch tensor, not ndarray"),
        (lambda f, y: (f.numpy().astype(">f4"), y), "not ndarray"),
        (lambda f, y: (f.tolist(), y), "not list"),
        (lambda f, y: (f.to_sparse(), y), "not a sparse tensor"),
        (lambda f, y: (f, y.tolist()), "training labels must be a dense torch tensor, not list"),
        (lambda f, y: (f, y[:, None]), "one label per sample"),
        (lambda f, y: (f, y.float()), "type int64"),
    ],
)
def test_features_and_labels_of_another_form_are_refused_by_what_they_are(change, sentence):
    x, y, z, t = data()
    for evaluate in (lambda *parts: knn(*parts, ks=(5,)), linear_probe, lbfgs):
        with pytest.raises(HardlabError, match=sentence):
            evaluate(*change(x, y), z, t)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int8, torch.bool])
def test_features_of_any_real_type_or_layout_are_evaluated_as_the_same_numbers(dtype):
    x, y, z, t = data()
    x, z = (x.clamp(-12, 12) * 10).to(dtype), (z.clamp(-12, 12) * 10).to(dtype)
    for evaluate in (
        lambda *parts: knn(*parts, ks=(5,)),
        lambda *parts: lbfgs(*parts).top1,
        lambda *parts: linear_probe(*parts, epochs=2).top1,
        lambda a, b, c, d: svm.normalised(a).sum(),
    ):
        expected = evaluate(x.float(), y, z.float(), t)
        assert evaluate(x, y, z, t) == expected
        strided = torch.stack([x, x], 2).flatten(1)[:, ::2]
        assert evaluate(strided, y, z.T.contiguous().T, t) == expected
        if dtype.is_floating_point:
            assert evaluate(x.clone().requires_grad_(), y, z.clone().requires_grad_(), t) == expected


@pytest.mark.parametrize(
    "value", ["x", None, [], math.nan, math.inf, -1, pytest.param(10**5000, id="huge"), {1}, np.bool_(True)]
)
def test_a_setting_that_is_no_number_of_its_range_is_refused_by_its_name(value):
    x, y, z, t = data()
    for name, evaluate in {
        "temperature": lambda v: knn(x, y, z, t, ks=(5,), temperature=v),
        "lr": lambda v: linear_probe(x, y, z, t, epochs=1, lr=v),
        "epochs": lambda v: linear_probe(x, y, z, t, epochs=v),
        "batch_size": lambda v: linear_probe(x, y, z, t, epochs=1, batch_size=v),
        "seed": lambda v: linear_probe(x, y, z, t, epochs=1, seed=v),
        "c": lambda v: lbfgs(x, y, z, t, c=v),
        "tolerance": lambda v: lbfgs(x, y, z, t, tolerance=v),
        "max_iter": lambda v: lbfgs(x, y, z, t, max_iter=v),
        "c of an SVM": lambda v: svm.scores(svm.normalised(x), svm.one_hot(y, 3), svm.normalised(z), v),
    }.items():
        with pytest.raises(HardlabError, match=rf"^{name} must be "):
            evaluate(value)


def test_numbers_of_numpy_are_settings_like_any_other():
    x, y, z, t = data()
    expected = linear_probe(x, y, z, t, epochs=2, batch_size=32, seed=3).weight
    for epochs, size, seed in ((np.int64(2), np.int32(32), np.uint8(3)), ("2", "0x20", 3.0)):
        assert torch.equal(linear_probe(x, y, z, t, epochs=epochs, batch_size=size, seed=seed).weight, expected)
