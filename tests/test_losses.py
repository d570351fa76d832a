"""The per-sample losses against loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hardlab import losses, nets
from hardlab.methods.simclr import SimCLR


def test_info_nce_of_equal_similarities_is_the_log_of_their_number():
    loss = losses.info_nce(torch.zeros(3), torch.zeros(3, 9), 0.1)
    assert torch.allclose(loss, torch.full((3,), math.log(10)))


def test_masked_columns_take_no_share_of_the_softmax():
    neg = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert losses.info_nce(torch.zeros(1), neg, 1.0).item() == pytest.approx(math.log(3))


def unit(n, d):
    return nn.functional.normalize(torch.randn(n, d, dtype=torch.double), dim=1)


def learner(kind=SimCLR):
    torch.manual_seed(0)
    return kind(nets.Tiny(width=4), dim=8)


def test_the_loss_with_several_positives_equals_a_loop():
    z, group, tau = unit(8, 5), torch.tensor([0, 1, 0, 2, 1, 0, 3, 2]), 0.3
    for i, actual in enumerate(losses.sup_con(z, group, tau)):
        bottom = sum(math.exp(float(z[i] @ z[a]) / tau) for a in range(8) if a != i)
        positives = [p for p in range(8) if p != i and group[p] == group[i]]
        terms = [-math.log(math.exp(float(z[i] @ z[p]) / tau) / bottom) for p in positives]
        assert actual.item() == pytest.approx(sum(terms) / len(terms) if terms else 0.0, abs=1e-5)


def test_with_one_positive_each_the_loss_is_ntxent():
    net = learner()
    za, zb = unit(7, 8).float(), unit(7, 8).float()
    plain = net.score({0: za, 1: zb}, {0: za, 1: zb})
    both = losses.sup_con(torch.cat([za, zb]), torch.arange(7).repeat(2), net.temperature)
    assert torch.allclose((both[:7] + both[7:]) / 2, plain, atol=1e-6)
    # and groups of one image, which no step gives, change nothing but the order of additions
    assert torch.allclose(net.score({0: za, 1: zb}, {0: za, 1: zb}, group=torch.arange(7)), plain, atol=1e-6)


def test_hinge_losses_equal_a_loop():
    scores = torch.linspace(-3, 3, 13)
    for s, real, fake in zip(scores, losses.hinge_real(scores), losses.hinge_fake(scores), strict=True):
        assert real.item() == pytest.approx(max(0.0, 1 - s.item()))
        assert fake.item() == pytest.approx(max(0.0, 1 + s.item()))


def test_max_normalisation_carries_the_gradient_through_its_divisor():
    x = torch.rand(3, 5, dtype=torch.double).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(losses.max_normalise, x)


def test_squared_distances_of_close_points_far_from_the_origin_keep_their_digits():
    a = 1 + 1e-3 * torch.rand(4, 512)
    exact = torch.cdist(a.double(), a.double().flip(0)).square()
    assert torch.allclose(losses.squared_distances(a, a.flip(0)).double(), exact, rtol=1e-3, atol=1e-9)
