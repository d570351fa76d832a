"""SimCLR against a loop and lightly's loss."""

from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import nn

from hardlab import nets
from hardlab.methods.simclr import SimCLR


def unit(n, d, seed):
    return nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_simclr_loss_of_each_sample_equals_a_loop_over_all_other_views():
    b, tau = 7, 0.3
    za, zb = unit(b, 5, 0).double(), unit(b, 5, 1).double()
    z = torch.cat([za, zb])
    anchors = []
    for i in range(2 * b):
        j = (i + b) % (2 * b)
        bottom = sum(math.exp(float(z[i] @ z[a]) / tau) for a in range(2 * b) if a != i)
        anchors.append(-math.log(math.exp(float(z[i] @ z[j]) / tau) / bottom))
    expected = torch.tensor([(anchors[i] + anchors[i + b]) / 2 for i in range(b)])
    actual = SimCLR(nets.Tiny(width=4), dim=5, temperature=tau).score({0: za, 1: zb}, {0: za, 1: zb})
    assert torch.allclose(actual, expected, atol=1e-5)


def test_simclr_loss_is_lightlys_ntxent_on_the_mean():
    za, zb = unit(16, 8, 2), unit(16, 8, 3)
    actual = SimCLR(nets.Tiny(width=4), dim=8, temperature=0.2).score({0: za, 1: zb}, {0: za, 1: zb}).mean()
    assert actual.item() == pytest.approx(NTXentLoss(temperature=0.2)(za, zb).item(), rel=1e-5)


def test_the_projector_of_simclr_learns_no_offset_in_its_last_norm():
    net = SimCLR(nets.Tiny(width=4), dim=8)
    assert net.projector[-1].bias.requires_grad is False
    assert torch.count_nonzero(net.projector[-1].bias) == 0
