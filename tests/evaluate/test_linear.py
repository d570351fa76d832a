"""Linear probes against autograd, a plain loop and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from hardlab.evaluate import linear as module
from hardlab.evaluate.linear import OPTIMIZERS, SCHEDULES, lbfgs, linear_probe
from hardlab.types import HardlabError


def make(n=600, q=200, d=12, classes=7, seed=0, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=g)
    y, t = torch.randint(0, classes, (n,), generator=g), torch.randint(0, classes, (q,), generator=g)
    y[:classes] = torch.arange(classes)
    return (
        centres[y] + 1.5 * torch.randn(n, d, generator=g) + shift,
        y,
        centres[t] + 1.5 * torch.randn(q, d, generator=g) + shift,
        t,
    )


def objective(x, y, weight, bias, c):
    """In double precision, from the definition."""
    ce = F.cross_entropy(x.double() @ weight.double().T + bias.double(), y)
    return float(ce + weight.double().square().sum() / (2 * c * len(x)))


@pytest.mark.parametrize("tile", [2**20, 100])
def test_the_gradient_equals_autograd(monkeypatch, tile):
    monkeypatch.setattr(module, "_TILE", tile)
    x, y, _, _ = make()
    weight, bias = torch.randn(7, 12, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    value, grad_w, grad_b = module._objective(x, y, weight.float(), bias.float(), 0.3)
    weight.requires_grad_()
    bias.requires_grad_()
    expected = F.cross_entropy(x.double() @ weight.T + bias, y) + 0.15 * weight.square().sum()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(grad_w.double(), weight.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_b.double(), bias.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamax"])
def test_the_minibatch_probe_equals_a_plain_torch_loop(optimizer):
    train_f, train_y, test_f, test_y = make()
    lr = {"sgd": 0.5, "adam": 0.02, "adamax": 0.02}[optimizer]
    probe = linear_probe(
        train_f,
        train_y,
        test_f,
        test_y,
        seed=3,
        optimizer=optimizer,
        lr=lr,
        batch_size=128,
        epochs=4,
        weight_decay=0.01,
    )
    g = torch.Generator().manual_seed(3)
    layer = nn.Linear(12, 7)
    nn.init.normal_(layer.weight, 0, 0.01, generator=g)
    nn.init.zeros_(layer.bias)
    made = {
        "sgd": lambda p: torch.optim.SGD(p, lr / 2, momentum=0.9, weight_decay=0.01),
        "adam": lambda p: torch.optim.Adam(p, lr / 2, weight_decay=0.01),
        "adamax": lambda p: torch.optim.Adamax(p, lr / 2, weight_decay=0.01),
    }[optimizer]
    opt = made(layer.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 4)
    top1, top5 = [], []
    for _ in range(4):
        for rows in torch.randperm(600, generator=g).split(128):
            opt.zero_grad()
            F.cross_entropy(layer(train_f[rows]), train_y[rows]).backward()
            opt.step()
        schedule.step()
        best = layer(test_f).topk(5).indices == test_y[:, None]
        top1.append(float(best[:, 0].float().mean()))
        top5.append(float(best.any(1).float().mean()))
    torch.testing.assert_close(probe.weight, layer.weight.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(probe.bias, layer.bias.detach(), rtol=1e-3, atol=1e-5)
    assert probe.top1 == pytest.approx(top1) and probe.top5 == pytest.approx(top5)
    assert probe.steps == 4 * 5
    assert probe.objective == pytest.approx(F.cross_entropy(layer(train_f), train_y).item(), rel=1e-4)


def test_the_published_default_starts_at_30_and_falls_along_a_cosine(monkeypatch):
    rates = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    def sgd(params, lr, decay):
        assert decay == 0
        return Spy(params, lr, momentum=0.9, weight_decay=decay)

    monkeypatch.setitem(OPTIMIZERS, "sgd", sgd)
    linear_probe(*make(n=256))
    assert len(rates) == 100
    np.testing.assert_allclose(rates, 15 * (1 + np.cos(np.pi * np.arange(100) / 100)))


def test_the_step_schedule_falls_tenfold_at_60_and_at_80_percent():
    factors = [SCHEDULES["step-60-80"](epoch / 100) for epoch in range(100)]
    np.testing.assert_allclose(factors, [1] * 60 + [0.1] * 20 + [0.01] * 20)
    assert {SCHEDULES["constant"](epoch / 10) for epoch in range(10)} == {1.0}


def test_one_seed_gives_one_probe_and_another_seed_another():
    data = make()
    one, same, other = (linear_probe(*data, seed=s, lr=1.0, epochs=3) for s in (5, 5, 6))
    assert torch.equal(one.weight, same.weight) and one.top1 == same.top1
    assert not torch.equal(one.weight, other.weight)


def test_a_probe_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    linear_probe(*make(), epochs=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_lbfgs_reaches_the_objective_and_the_weights_of_scikit_learn(c, shift):
    train_f, train_y, test_f, test_y = make(shift=shift)
    probe = lbfgs(train_f, train_y, test_f, test_y, c=c)
    peer = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(train_f.double().numpy(), train_y.numpy())
    best = objective(train_f, train_y, torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_), c)
    ours = objective(train_f, train_y, probe.weight, probe.bias, c)
    assert probe.objective == pytest.approx(ours, rel=1e-5)
    assert best * (1 - 1e-9) <= ours <= best * (1 + 1e-6)
    np.testing.assert_allclose(probe.weight.numpy(), peer.coef_, atol=5e-3)
    assert probe.top1 == pytest.approx([peer.score(test_f.numpy(), test_y.numpy())], abs=0.01)


def test_lbfgs_is_no_worse_than_scikit_learn_at_its_defaults():
    train_f, train_y, test_f, test_y = make(n=1500, d=40)
    train_f, test_f = train_f.relu(), test_f.relu()
    train_f[:, 3] = 0.0  # a unit that never fires
    probe = lbfgs(train_f, train_y, test_f, test_y)
    peer = LogisticRegression().fit(train_f.numpy(), train_y.numpy())
    theirs = objective(train_f, train_y, torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_), 1.0)
    assert objective(train_f, train_y, probe.weight, probe.bias, 1.0) <= theirs
    assert probe.weight[:, 3].abs().max() < 1e-5


def test_lbfgs_converges_on_features_of_very_different_scales():
    train_f, train_y, test_f, test_y = make()
    scale = torch.logspace(-3, 3, 12)
    probe = lbfgs(train_f * scale, train_y, test_f * scale, test_y)
    peer = LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(
        (train_f * scale).double().numpy(), train_y.numpy()
    )
    best = objective(train_f * scale, train_y, torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_), 1.0)
    assert objective(train_f * scale, train_y, probe.weight, probe.bias, 1.0) <= best * (1 + 1e-5)


def test_lbfgs_needs_few_iterations_where_features_are_strongly_correlated():
    g = torch.Generator().manual_seed(0)
    mix = torch.linalg.qr(torch.randn(40, 40, generator=g))[0] * torch.arange(1, 41)[:, None] ** -1.5
    train_f, train_y, test_f, test_y = make(n=3000, d=40)
    train_f, test_f = train_f @ mix + 1, test_f @ mix + 1
    probe = lbfgs(train_f, train_y, test_f, test_y)
    peer = LogisticRegression(max_iter=5000).fit(train_f.numpy(), train_y.numpy())
    theirs = objective(train_f, train_y, torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_), 1.0)
    assert objective(train_f, train_y, probe.weight, probe.bias, 1.0) <= theirs
    assert probe.steps < peer.n_iter_[0] / 2


def test_lbfgs_is_deterministic_and_independent_of_the_order_of_the_samples():
    train_f, train_y, test_f, test_y = make()
    one, same = lbfgs(train_f, train_y, test_f, test_y), lbfgs(train_f, train_y, test_f, test_y)
    assert torch.equal(one.weight, same.weight)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    other = lbfgs(train_f[order], train_y[order], test_f, test_y)
    torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=5e-3)


def test_top5_stays_away_where_there_are_not_more_than_5_classes():
    data = make(classes=5)
    assert lbfgs(*data).top5 == [] and linear_probe(*data, epochs=1).top5 == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"optimizer": "sdg"}, "'sdg'.*'sgd'"),
        ({"schedule": "cosin"}, "'cosin'.*'cosine'"),
        ({"epochs": 0}, "epochs must be a whole number from 1 to .*, not 0"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to .*, not 0"),
        ({"lr": 0.0}, "lr must be a finite number above 0 .*, not 0.0"),
        ({"lr": 1e12, "weight_decay": 1.0}, "diverged in epoch"),
    ],
)
def test_impossible_settings_of_the_probe_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(HardlabError, match=sentence):
        linear_probe(*make(), **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"c": 0.0}, "c must be a finite number from 1e-30 to 1e.30, not 0.0"),
        ({"max_iter": 2}, "did not converge in 2 iterations"),
    ],
)
def test_impossible_settings_of_lbfgs_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(HardlabError, match=sentence):
        lbfgs(*make(), **options)
