"""Hard negative pair mining against loops over the hard sets."""

from __future__ import annotations

import math

import pytest
import torch
from hnssl_steps import B, dissimilarity, net, outcome, views_of
from steps import after

from hardlab import losses, nets, registry
from hardlab.hard.mined import Mined
from hardlab.methods.simsiam import SimSiam
from hardlab.types import HardlabError


@pytest.mark.parametrize("mine", ["threshold", "all", "top1"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_mined_term_equals_a_loop_over_the_hard_sets(mine, reduction):
    q, t = torch.rand(9, 4), torch.rand(9, 4)
    hard = Mined(mine=mine, reduction=reduction, threshold=0.7 if reduction == "sum" else 0.18)
    expected, sizes = [], []
    for i in range(9):
        d = {j: dissimilarity(t[i], q[j]) / (4 if reduction == "mean" else 1) for j in range(9) if j != i}
        if mine == "threshold":
            d = {j: x for j, x in d.items() if x <= hard.threshold}
        elif mine == "top1":
            nearest = min(d, key=d.get)
            d = {nearest: d[nearest]}
        sizes.append(len(d))
        if d:
            expected.append(-math.log(sum(d.values()) + 1e-8))
    now = after(net(), outcome(q, t))
    actual = hard.terms(now)["mined"]
    assert torch.allclose(actual, torch.tensor(expected), atol=1e-4)
    logs = hard.logs(now)
    assert logs["frac_nonempty"] == pytest.approx(sum(s > 0 for s in sizes) / 9)
    assert logs["hard_negatives"] == pytest.approx(sum(sizes) / 9)
    assert logs["d_q05"] <= logs["d_q50"] <= logs["d_q95"]


def test_where_every_distance_is_above_the_threshold_there_is_no_term_and_no_nan():
    q = (10 * torch.eye(5)).requires_grad_()
    hard = Mined()
    now = after(net(), outcome(q, torch.eye(5)))
    term = hard.terms(now)["mined"]
    assert term.shape == (0,)
    assert hard.logs(now)["frac_nonempty"] == 0
    assert hard.logs(now)["hard_negatives"] == 0
    loss = net().loss(q, torch.eye(5)).mean()  # the trainer leaves a term without rows out
    assert torch.isfinite(torch.autograd.grad(loss, q)[0]).all()


def test_equal_outputs_of_all_images_give_a_finite_term_and_gradient():
    q = torch.ones(5, 3, requires_grad=True)
    term = Mined().terms(after(net(), outcome(q, torch.ones(5, 3))))["mined"]
    assert torch.isfinite(term).all()
    assert torch.isfinite(torch.autograd.grad(term.mean(), q)[0]).all()


def test_the_negative_term_pulls_at_the_prediction_of_the_other_image_and_not_at_the_anchor():
    q = torch.rand(4, 3, dtype=torch.double).requires_grad_()
    t = torch.rand(4, 3, dtype=torch.double)
    total = losses.squared_distances(t, q)[0, 1:].sum()
    grad = torch.autograd.grad(total, q)[0]
    assert torch.count_nonzero(grad[0]) == 0
    assert torch.allclose(grad[1:], 2 * (q - t[0]).detach()[1:])


@pytest.mark.parametrize("name", ["simsiam", "simclr"])
def test_mined_negatives_add_a_row_per_pair_and_image_on_methods_with_vector_labels(name):
    torch.manual_seed(0)
    method = registry.build("method", name, {}, nets.Tiny(width=4))
    hard = Mined(mine="all")
    hard.install(method)
    out = method(views_of(torch.randn(B, 2, 3, 16, 16)))
    assert hard.terms(after(method, out))["mined"].shape == (2 * B,)


def test_a_method_whose_labels_are_no_vectors_is_refused_with_the_reason():
    class Classes(SimSiam):
        vectors = False

    with pytest.raises(HardlabError, match="Classes has labels that are no vectors"):
        Mined().install(Classes(nets.Tiny(width=4), dim=8, hidden=4))
