"""HCL, MoCHi and SynCo against loops written from the equations of their papers."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_runs import small_run
from torch import nn

from hardlab import build, nets, recipes, train
from hardlab.hard.hcl import HCL
from hardlab.hard.mochi import MoCHi
from hardlab.hard.synco import SynCo
from hardlab.methods.moco import MoCo
from hardlab.methods.simclr import SimCLR
from hardlab.methods.simsiam import SimSiam
from hardlab.types import HardlabError, Progress


def unit(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=g, dtype=torch.double), dim=1)


def moco(hard, queue=40, dim=6):
    net = MoCo(nets.Tiny(width=4), dim=dim, queue=queue, bn="plain", temperature=0.3).double()
    hard.install(net)
    return net


# ---------------------------------------------------------------------------------------------------------- HCL


@pytest.mark.parametrize(("beta", "tau"), [(0.0, 0.0), (0.0, 0.1), (1.0, 0.0), (1.0, 0.1), (2.0, 0.01), (0.5, 0.9)])
def test_hcl_equals_a_loop_over_the_negatives_of_each_anchor(beta, tau):
    b, t = 6, 0.5
    za, zb = unit(b, 5, 0), unit(b, 5, 1)
    method = SimCLR(nets.Tiny(width=4), dim=5, temperature=t)
    HCL(beta=beta, tau=tau).install(method)
    got = method.loss(za, zb)
    for i in range(b):
        p = math.exp(float(za[i] @ zb[i]) / t)
        e = [math.exp(float(za[i] @ z[j]) / t) for z in (za, zb) for j in range(b) if j != i]
        mean = sum(x**beta for x in e) / len(e)
        g = (sum(x**beta * x for x in e) / mean - tau * len(e) * p) / (1 - tau)
        g = max(g, len(e) * math.exp(-1 / t))
        assert got[i].item() == pytest.approx(-math.log(p / (p + g)), rel=1e-9)


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


# ------------------------------------------------------------------------------------------------ MoCHi, SynCo


def drawn(kind, method, q, k):
    """The columns that a strategy adds: (N,S)."""
    plain = q @ method.negatives.stored().T
    both = method.negatives.similarities(q, k)
    assert torch.allclose(both[:, : plain.shape[1]], plain)
    return both[:, plain.shape[1] :]


class Fixed:
    """In place of torch's draws: what a test hands out, in order."""

    def __init__(self, monkeypatch, indices, shares, noise=None):
        self.indices, self.shares = list(indices), list(shares)
        monkeypatch.setattr(torch, "randint", lambda *a, **k: self.indices.pop(0))
        monkeypatch.setattr(torch, "rand", lambda *a, **k: self.shares.pop(0))
        if noise is not None:
            monkeypatch.setattr(torch, "randn_like", lambda x: noise)


def nearest(method, q, count):
    keys = method.negatives.stored()
    order = sorted(range(len(keys)), key=lambda j: -float(q @ keys[j]))
    return [keys[j] for j in order[:count]]


def test_mochi_equals_a_loop_over_queries_pairs_and_shares(monkeypatch):
    method = moco(MoCHi(hard=5, pairs=3, queries=2, warmup_epochs=0))
    q, k = unit(4, 6, 0), unit(4, 6, 1)
    ij, m = torch.randint(5, (2, 4, 3)), torch.randint(5, (4, 2))
    a, b = torch.rand(4, 3, 1, dtype=torch.double), torch.rand(4, 2, 1, dtype=torch.double)
    Fixed(monkeypatch, [ij, m], [a, b])
    got = drawn(MoCHi, method, q, k)
    for n in range(4):
        hard = nearest(method, q[n], 5)
        wanted = []
        for s in range(3):
            h = a[n, s, 0] * hard[ij[0, n, s]] + (1 - a[n, s, 0]) * hard[ij[1, n, s]]
            wanted.append(float(q[n] @ h / h.norm()))
        for s in range(2):
            share = b[n, s, 0] * 0.5
            h = share * q[n] + (1 - share) * hard[m[n, s]]
            wanted.append(float(q[n] @ h / h.norm()))
        assert got[n].tolist() == pytest.approx(wanted, abs=1e-9)


def test_synco_equals_a_loop_over_its_six_kinds(monkeypatch):
    method = moco(
        SynCo(hard=5, interpolated=2, extrapolated=2, mixed=2, noised=2, perturbed=2, adversarial=2, sigma=0.3,
              delta=0.2, eta=0.1, warmup_epochs=0)
    )  # fmt: skip
    q, k = unit(4, 6, 0), unit(4, 6, 1)
    rows = [torch.randint(5, (4, 2)) for _ in range(7)]
    shares = [torch.rand(4, 2, 1, dtype=torch.double) for _ in range(3)]
    noise = torch.randn(4, 2, 6, dtype=torch.double)
    Fixed(monkeypatch, rows, shares, noise)
    got = drawn(SynCo, method, q, k)
    for n in range(4):
        hard = nearest(method, q[n], 5)
        made = []
        for s in range(2):
            alpha = float(shares[0][n, s, 0]) * 0.5
            made.append(alpha * q[n] + (1 - alpha) * hard[rows[0][n, s]])
        for s in range(2):
            beta = 1 + float(shares[1][n, s, 0]) * 0.5
            made.append(q[n] + beta * (hard[rows[1][n, s]] - q[n]))
        for s in range(2):
            gamma = float(shares[2][n, s, 0])
            made.append((1 - gamma) * hard[rows[2][n, s]] + gamma * hard[rows[3][n, s]])
        made += [hard[rows[4][n, s]] + 0.3 * noise[n, s] for s in range(2)]
        for kind, strength in ((5, 0.2), (6, 0.1)):
            for s in range(2):
                x = hard[rows[kind][n, s]].clone().requires_grad_()
                (grad,) = torch.autograd.grad(q[n] @ x, x)
                made.append(x.detach() + strength * (grad if kind == 5 else grad.sign()))
        assert got[n].tolist() == pytest.approx([float(q[n] @ h / h.norm()) for h in made], abs=1e-9)


@pytest.mark.parametrize("kind", [MoCHi, SynCo])
def test_what_is_made_takes_no_gradient_and_what_is_logged_draws_nothing(kind):
    method = moco(kind(**kind.SMALL))
    q, k = unit(4, 6, 0).requires_grad_(), unit(4, 6, 1)
    state = torch.get_rng_state()
    near = method.negatives.nearest(q, k)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(near, (q @ method.negatives.stored().T).amax(1))
    torch.manual_seed(0)
    columns = drawn(kind, method, q, k)
    (grad,) = torch.autograd.grad(columns[0, 0], q)
    assert float(grad[0] @ q.detach()[0]) == pytest.approx(
        columns[0, 0].item()
    )  # linear in q: the made one is a constant


@pytest.mark.parametrize("kind", ["mochi", "synco"])
def test_a_warm_up_adds_nothing_and_one_as_long_as_the_run_is_refused(kind):
    hard = build.registry.build("strategy", kind, {"hard": 8, "warmup_epochs": 1})
    hard.name = kind
    method = moco(hard)
    q, k = unit(4, 6, 0), unit(4, 6, 1)
    hard.before_step(Progress(9, 20, 0, 2))
    assert method.negatives.similarities(q, k).shape == (4, 40)
    hard.before_step(Progress(10, 20, 1, 2))
    assert method.negatives.similarities(q, k).shape[1] > 40
    with pytest.raises(HardlabError, match=rf"hard\.{kind}\.warmup_epochs=1 leaves nothing of a run of 1 epochs"):
        hard.check_steps(10, 1)


@pytest.mark.parametrize("kind", [MoCHi, SynCo])
def test_they_are_refused_where_too_few_negatives_are_kept(kind):
    with pytest.raises(HardlabError, match="keeps none of its own"):
        kind().install(SimCLR(nets.Tiny(width=4)))
    with pytest.raises(HardlabError, match="hard=1024: the queue has 40"):
        moco(kind())


def test_hcl_is_refused_without_negatives_and_two_that_replace_them_too():
    with pytest.raises(HardlabError, match="SimSiam has none"):
        HCL().install(SimSiam(nets.Tiny(width=4), dim=16, hidden=4))
    run = recipes.recipe("moco-mochi", "smoke").with_({"hard": ["hcl", "mochi"]})
    with pytest.raises(HardlabError, match="hcl, mochi each replace the negatives"):
        build.check(run)


@pytest.mark.parametrize("name", ["simclr-hcl", "moco-mochi", "moco-synco"])
def test_there_is_a_recipe_that_trains(name):
    session = train.open(small_run(name), device="cpu")
    step = train.step(session, next(session.batches()))
    assert torch.isfinite(step.out.loss).all()
    assert isinstance(session.method.negatives, nn.Module)
    for rung in recipes.RUNGS:
        assert [f"{r.method.name}-{r.hard[0].name}" for r in [recipes.recipe(name, rung)]] == [name]
