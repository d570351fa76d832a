"""HCL against a loop over the negatives of each anchor."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from synthetic import unit

from hardlab import build, nets, recipes
from hardlab.hard.hcl import HCL
from hardlab.methods.simclr import SimCLR
from hardlab.methods.simsiam import SimSiam
from hardlab.types import HardlabError


@pytest.mark.parametrize(("beta", "tau"), [(0.0, 0.0), (0.0, 0.1), (1.0, 0.0), (1.0, 0.1), (2.0, 0.01), (0.5, 0.9)])
def test_hcl_equals_a_loop_over_the_negatives_of_each_anchor(beta, tau):
    b, t = 6, 0.5
    za, zb = unit(b, 5, 0), unit(b, 5, 1)
    method = SimCLR(nets.Tiny(width=4), dim=5, temperature=t)
    HCL(beta=beta, tau=tau).install(method)
    actual = method.loss(za, zb)
    for i in range(b):
        p = math.exp(float(za[i] @ zb[i]) / t)
        e = [math.exp(float(za[i] @ z[j]) / t) for z in (za, zb) for j in range(b) if j != i]
        mean = sum(x**beta for x in e) / len(e)
        g = (sum(x**beta * x for x in e) / mean - tau * len(e) * p) / (1 - tau)
        g = max(g, len(e) * math.exp(-1 / t))
        assert actual[i].item() == pytest.approx(-math.log(p / (p + g)), rel=1e-9)


def test_hcl_without_weights_and_correction_is_the_plain_loss_with_the_same_gradient():
    za, zb = unit(8, 5, 0).requires_grad_(), unit(8, 5, 1).requires_grad_()
    plain, weighed = (SimCLR(nets.Tiny(width=4), dim=5) for _ in range(2))
    HCL(beta=0.0, tau=0.0).install(weighed)
    losses = [m.loss(za, zb).mean() for m in (plain, weighed)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for x, y in zip(*(torch.autograd.grad(loss, (za, zb)) for loss in losses), strict=True):
        assert torch.allclose(x, y, atol=1e-6)


@pytest.mark.parametrize(("tau", "reached"), [(None, 8), (0.1, 0)])
def test_at_rung_paper_the_negatives_of_an_anchor_have_a_gradient_which_a_tau_of_ten_classes_takes_away(tau, reached):
    run = recipes.recipe("simclr-hcl", "paper", {} if tau is None else {"hard.hcl.tau": tau})
    method = SimCLR(nets.Tiny(width=4), dim=64)  # at its default temperature, as the recipe
    assert run.method.options == {} and method.temperature == 0.1
    HCL(**run.hard[0].options).install(method)
    q = unit(256, 64, 0)
    k = F.normalize(q + 1.3 * unit(256, 64, 1), dim=1).requires_grad_()  # cosines of about 0.6
    loss = method.loss(q, k)
    given = [torch.autograd.grad(loss[i], k, retain_graph=True)[0].norm(dim=1).nonzero().flatten() for i in range(8)]
    assert sum(len(rows) > 1 for rows in given) == reached


def test_hcl_stays_finite_at_a_low_temperature_in_float32():
    za, zb = unit(8, 5, 0).float().requires_grad_(), unit(8, 5, 1).float()
    method = SimCLR(nets.Tiny(width=4), dim=5, temperature=0.01)
    HCL(beta=2.0).install(method)
    loss = method.loss(za, zb)
    assert torch.isfinite(loss).all() and torch.isfinite(torch.autograd.grad(loss.mean(), za)[0]).all()


def test_hcl_is_refused_without_negatives_and_two_that_replace_them_too():
    with pytest.raises(HardlabError, match="SimSiam has none"):
        HCL().install(SimSiam(nets.Tiny(width=4), dim=16, hidden=4))
    run = recipes.recipe("moco-mochi", "smoke").with_({"hard": ["hcl", "mochi"]})
    with pytest.raises(HardlabError, match="hcl, mochi each replace the negatives"):
        build.check(run)
