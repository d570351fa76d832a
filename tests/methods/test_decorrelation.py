"""VICReg and Barlow Twins against lightly's losses, and against loops over dimensions."""

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, VICRegLoss
from small_runs import small_run
from steps import rendered

from hardlab import nets, optim, recipes, registry, train
from hardlab.methods.barlow import BarlowTwins
from hardlab.methods.vicreg import VICReg

PAIRS = [
    (VICReg, {}, VICRegLoss()),
    (
        VICReg,
        {"invariance": 10.0, "variance": 3.0, "covariance": 2.0},
        VICRegLoss(lambda_param=10, mu_param=3, nu_param=2),
    ),
    (BarlowTwins, {}, BarlowTwinsLoss(lambda_param=0.0051)),
    (BarlowTwins, {"redundancy": 0.2}, BarlowTwinsLoss(lambda_param=0.2)),
]


def two(n=12, d=16):
    # deviations on both sides of 1, where VICReg's hinge is
    scale = torch.linspace(0.5, 1.5, d, dtype=torch.double)
    a = torch.randn(n, d, dtype=torch.double) * scale
    return a.requires_grad_(), (a.detach() + 0.5 * torch.randn(n, d, dtype=torch.double)).requires_grad_()


@pytest.mark.parametrize(("kind", "options", "theirs"), PAIRS)
def test_the_mean_of_the_rows_is_lightlys_loss_and_so_is_its_gradient(kind, options, theirs):
    method, (a, b) = kind(nets.Tiny(width=4), dim=16, **options), two()
    mine, wanted = method.loss(a, b), theirs(a, b)
    assert mine.shape == (12,)
    assert mine.mean().item() == pytest.approx(wanted.item(), rel=1e-10)
    for x, y in zip(torch.autograd.grad(mine.mean(), (a, b)), torch.autograd.grad(wanted, (a, b)), strict=True):
        assert torch.allclose(x, y, atol=1e-10)


def test_the_share_of_an_image_in_barlow_twins_equals_a_loop_over_pairs_of_dimensions():
    a, b = (x.detach() for x in two(n=6, d=4))
    za, zb = ((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (a, b))
    got = BarlowTwins(nets.Tiny(width=4), dim=4, redundancy=0.3).loss(a, b)
    for i in range(6):
        wanted = 0.0
        for d in range(4):
            for e in range(4):
                c = sum(float(za[j, d] * zb[j, e]) for j in range(6)) / 6
                own = float(za[i, d] * zb[i, e])
                wanted += (c - 1) * (own - 1) if d == e else 0.3 * c * own
        assert got[i].item() == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("kind", [VICReg, BarlowTwins])
def test_a_step_trains_both_branches_through_one_pass_each(kind):
    method = kind(nets.Tiny(width=4), dim=16)
    out = method(rendered(torch.randn(8, 2, 3, 16, 16)))
    assert out.q.keys() == {0} and out.t.keys() == {1}
    assert out.q[0].requires_grad and out.t[1].requires_grad


def test_hvs_says_once_that_its_pick_depends_on_the_batch_where_the_loss_does():
    for name, told in (("vicreg", 1), ("simsiam", 0)):
        said = []
        run = small_run(name, hard=["hvs"])
        train.open(run, device="cpu", say=said.append)
        assert len([line for line in said if "depends on the others of its batch" in line]) == told


@pytest.mark.parametrize("name", ["vicreg", "barlow"])
@pytest.mark.parametrize("rung", recipes.RUNGS)
def test_there_is_a_recipe_at_every_rung_and_the_paper_s_is_8192_wide(name, rung):
    run = recipes.recipe(name, rung)
    assert run.method.name == name
    if rung == "paper":
        assert "dim" not in run.method.options and registry.options("method", name)["dim"].default == 8192
        assert (run.batch_size, run.epochs, run.optim.name) == (2048, 1000, "lars")


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
