"""Barlow Twins against lightly's loss, a loop and the authors' LARS."""

from __future__ import annotations

import pytest
import torch
from correlated import is_lightlys, two
from lightly.loss import BarlowTwinsLoss
from steps import rendered

from hardlab import nets, optim, recipes
from hardlab.methods.barlow import BarlowTwins


@pytest.mark.parametrize(
    ("options", "reference"),
    [({}, BarlowTwinsLoss(lambda_param=0.0051)), ({"redundancy": 0.2}, BarlowTwinsLoss(lambda_param=0.2))],
)
def test_the_mean_of_the_rows_is_lightlys_loss_and_so_is_its_gradient(options, reference):
    is_lightlys(BarlowTwins(nets.Tiny(width=4), dim=16, **options), reference)


def test_the_share_of_an_image_in_barlow_twins_equals_a_loop_over_pairs_of_dimensions():
    a, b = (x.detach() for x in two(n=6, d=4))
    za, zb = ((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (a, b))
    actual = BarlowTwins(nets.Tiny(width=4), dim=4, redundancy=0.3).loss(a, b)
    for i in range(6):
        expected = 0.0
        for d in range(4):
            for e in range(4):
                c = sum(float(za[j, d] * zb[j, e]) for j in range(6)) / 6
                own = float(za[i, d] * zb[i, e])
                expected += (c - 1) * (own - 1) if d == e else 0.3 * c * own
        assert actual[i].item() == pytest.approx(expected, rel=1e-8)


def test_barlow_s_paper_recipe_takes_the_steps_of_the_authors_lars_with_its_two_rates_and_the_whole_loss():
    """facebookresearch/barlowtwins, main.py: 0.2 for weights, 0.0048 for biases and norm parameters, per 256 images."""
    run = recipes.recipe("barlow", "paper")
    ours = BarlowTwins(nets.Tiny(width=4), **{**run.method.options, "dim": 8}).double()
    theirs = BarlowTwins(nets.Tiny(width=4), dim=8, redundancy=0.005).double()
    theirs.load_state_dict(ours.state_dict())
    opt = optim.build(ours.parameters(), run.optim, run.batch_size)
    momenta = [torch.zeros_like(p) for p in theirs.parameters()]
    assert {p.ndim for p in theirs.parameters()} > {1}
    for _ in range(3):
        views = torch.randn(16, 2, 3, 16, 16, dtype=torch.double)
        for method in (ours, theirs):
            out = method(rendered(views))
            method.zero_grad()
            method.loss(out.q[0], out.t[1]).mean().backward()
        opt.step()
        for p, m in zip(theirs.parameters(), momenta, strict=True):
            d, rate = p.grad, 0.0048
            if p.ndim > 1:
                d, rate = d + 1.5e-6 * p.detach(), 0.2
                d = d * (0.001 * p.detach().norm() / d.norm())
            m.mul_(0.9).add_(d)
            p.data -= rate * run.batch_size / 256 * m
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)
