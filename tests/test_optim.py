"""Optimisers and schedules against lightly and torch."""

import math

import pytest
import torch
from lightly.utils.lars import LARS as LightlyLARS
from torch import nn

from hardlab import optim
from hardlab.config import Optim


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def steps(model, opt, n=5):
    for step in range(n):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()


def test_lars_without_decay_takes_the_same_steps_as_lightlys():
    ours, theirs = net(), net()
    # lightly adapts only groups that decay, and adds the norms where simclr takes the norm of the sum: the same at 0
    config = Optim(name="lars", lr=0.5, weight_decay=1e-9, exclude_bias_norm=True)
    weights = [p for p in theirs.parameters() if p.ndim > 1]
    plain = [p for p in theirs.parameters() if p.ndim <= 1]
    peer = LightlyLARS(
        [{"params": plain, "weight_decay": 0}, {"params": weights}], lr=0.5, momentum=0.9, weight_decay=1e-9
    )
    steps(ours, optim.build(ours.parameters(), config, 256))
    steps(theirs, peer)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)
    assert not torch.allclose(ours[0].weight, net()[0].weight, atol=1e-4)


def test_the_rate_of_lars_multiplies_the_gradient_or_the_momentum_which_differ_while_it_changes():
    rates = [0.1, 0.5, 0.3, 0.2]
    for kind in ("gradient", "momentum"):
        model, loop = net(), {n: p.detach().clone() for n, p in net().named_parameters()}
        config = Optim(name="lars", lr=0.5, weight_decay=0.1, exclude_bias_norm=True, rate_of=kind)
        opt, mu = optim.build(model.parameters(), config, 256), {n: torch.zeros_like(p) for n, p in loop.items()}
        for rate in rates:
            x = torch.randn(8, 6)
            opt.zero_grad()
            model(x).square().mean().backward()
            for group in opt.param_groups:
                group["lr"] = rate
            opt.step()
            for n, p in model.named_parameters():
                g, w = p.grad, loop[n]
                if w.ndim > 1:
                    g = g + 0.1 * w
                    g = 1e-3 * w.norm() / g.norm() * g
                if kind == "gradient":  # google-research/simclr, lars_optimizer.py
                    mu[n] = 0.9 * mu[n] + rate * g
                    loop[n] = w - mu[n]
                else:  # facebookresearch/barlowtwins, main.py
                    mu[n] = 0.9 * mu[n] + g
                    loop[n] = w - rate * mu[n]
                assert torch.allclose(p, loop[n], atol=1e-6), (kind, n)


def test_a_schedule_by_epoch_holds_the_rate_of_mocos_code_for_a_whole_epoch():
    config = Optim(lr=0.03, rate_by="epoch")
    opt = optim.build(net().parameters(), config, 256)
    for step in range(40):
        rate = optim.set_schedule(opt, config, 256, step, total=40, warmup=0, per_epoch=8)
        assert rate == pytest.approx(0.03 * 0.5 * (1 + math.cos(math.pi * (step // 8) / 5)))
    warm = [optim.set_schedule(opt, config, 256, step, total=40, warmup=12, per_epoch=8) for step in range(24)]
    assert warm[:16] == pytest.approx([0.03 * 8 / 12] * 8 + [0.03] * 8)
    assert warm[16] == warm[23] < 0.03


def test_lars_adapts_the_decayed_gradient_of_weights_and_leaves_biases_and_norms_alone():
    model = net()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    opt = optim.build(model.parameters(), Optim(name="lars", lr=0.5, weight_decay=0.1, exclude_bias_norm=True), 256)
    model(torch.randn(8, 6)).square().mean().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    opt.step()
    for n, p in model.named_parameters():
        g, w = grads[n], before[n]
        if w.ndim > 1:  # google-research/simclr, lars_optimizer.py
            g = g + 0.1 * w
            g = 1e-3 * w.norm() / g.norm() * g
        assert torch.allclose(p, w - 0.5 * g, atol=1e-6)


def test_cosine_without_warmup_is_torchs_annealing():
    p = nn.Parameter(torch.zeros(1))
    opt = torch.optim.SGD([p], lr=0.4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=50, eta_min=0.01)
    for step in range(50):
        assert optim.cosine(step, 50, 0, 0.4, 0.01) == pytest.approx(opt.param_groups[0]["lr"])
        opt.step()
        theirs.step()


def test_warmup_rises_linearly_to_the_base_rate_and_the_end_is_the_final_rate():
    rates = [optim.cosine(s, 100, 10, 1.0, 0.1) for s in range(101)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)


def test_the_rate_scales_with_the_batch_and_constant_parameters_keep_theirs():
    model = net()
    config = Optim(lr=0.1, weight_decay=1e-3)
    opt = optim.build(model.parameters(), config, 512, constant=model[3].parameters())
    optim.set_schedule(opt, config, 512, step=99, total=100, warmup=0)
    rates = {id(p): g["lr"] for g in opt.param_groups for p in g["params"]}
    assert rates[id(model[3].weight)] == pytest.approx(0.2)
    assert rates[id(model[0].weight)] < 1e-3
    assert {id(p) for p in model.parameters()} == set(rates)


def test_weight_decay_follows_its_own_cosine_and_stays_zero_where_it_is_excluded():
    model = net()
    config = Optim(name="adamw", lr=1e-3, weight_decay=0.04, weight_decay_end=0.4, exclude_bias_norm=True)
    opt = optim.build(model.parameters(), config, 256)
    decays = []
    for step in (0, 50, 100):
        optim.set_schedule(opt, config, 256, step, 100, 0)
        decays.append(sorted({g["weight_decay"] for g in opt.param_groups}))
    assert [s[0] for s in decays] == [0, 0, 0]
    assert [s[1] for s in decays] == pytest.approx([0.04, 0.22, 0.4])


def test_larc_rescales_every_layer_as_apex_does_or_bounds_its_rate_and_leaves_excluded_tensors_alone():
    for by in ("scale", "clip"):
        model = net()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        config = Optim(name="larc", lr=0.5, weight_decay=0.1, trust=0.02, trust_by=by, exclude_bias_norm=True)
        opt = optim.build(model.parameters(), config, 256)
        model(torch.randn(8, 6)).square().mean().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters()}
        opt.step()
        for n, p in model.named_parameters():
            g, w = grads[n], before[n]
            if w.ndim > 1:
                ratio = 0.02 * w.norm() / (g.norm() + 0.1 * w.norm())
                ratio = torch.clamp(ratio / 0.5, max=1) if by == "clip" else ratio
                g = (g + 0.1 * w) * ratio
            assert torch.allclose(p, w - 0.5 * g, atol=1e-6)


KINDS = [
    {"name": "sgd"}, {"name": "adam"}, {"name": "adamw"}, {"name": "lars"}, {"name": "lars", "rate_of": "momentum"},
    {"name": "larc"}, {"name": "larc", "trust_by": "clip"},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS[3:], ids=lambda kind: "-".join(kind.values()))
def test_a_step_of_all_tensors_at_once_as_on_a_gpu_is_that_of_one_after_the_other_bit_for_bit(kind, monkeypatch):
    config, weights = Optim(lr=0.5, weight_decay=0.1, exclude_bias_norm=True, **kind), []
    for at_once in (optim.at_once, lambda params: [[p for p in params if p.grad is not None]]):
        monkeypatch.setattr(optim, "at_once", at_once)
        model = net()
        model[3].bias.requires_grad_(False)
        nn.init.zeros_(model[3].weight)  # without a norm, its gradient stays as it is
        steps(model, optim.build(model.parameters(), config, 256))
        weights.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.parametrize("together", [False, True])
def test_each_gradient_is_clipped_to_a_norm_as_torch_clips_one_alone(together, monkeypatch):
    if together:  # as on a GPU
        monkeypatch.setattr(optim, "at_once", lambda params: [[p for p in params if p.grad is not None]])
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(n)) for n in (1, 7, 300, 5)]
    for p, scale in zip(params[:3], (1e-3, 1.0, 1e3), strict=True):
        p.grad = scale * torch.randn_like(p)
    expected = [p.grad.clone() for p in params[:3]]
    for g in expected:
        alone = nn.Parameter(torch.zeros_like(g))
        alone.grad = g
        nn.utils.clip_grad_norm_([alone], 0.5)
    optim.clip(params, 0.5, "tensor")
    assert all(torch.equal(p.grad, g) for p, g in zip(params[:3], expected, strict=True))
    assert params[3].grad is None and float(params[2].grad.norm()) == pytest.approx(0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_on_a_gpu_a_step_launches_few_kernels_however_many_tensors_there_are(kind):
    from torch.profiler import ProfilerActivity, profile

    params = [torch.randn(40, 40, device="cuda", requires_grad=True) for _ in range(100)]
    opt = optim.build(params, Optim(weight_decay=0.1, **kind), 256)
    for p in params:
        p.grad = torch.randn_like(p)
    opt.step()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        opt.step()
    launches = sum("LaunchKernel" in event.name for event in seen.events())
    # a ratio a tensor of LARS and LARC is a product a tensor, and LARC's choice and copy are two more
    assert 0 < launches < {"lars": 150, "larc": 350}.get(kind["name"], 50)
