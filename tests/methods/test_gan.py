"""The GAN that PPCL starts from: its networks, its losses, its game, and what is said about its images."""

import copy

import numpy as np
import pytest
import torch
from made_gan import LOOK, SMALL, game
from resuming import learned, rows, same, whole_and_parts
from small_runs import small_run
from steps import after
from torch import nn

from hardlab import biggan, build, recipes, run_folder
from hardlab.methods.base import ema
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import PRESETS, Look


def rendered(n=6):
    raw = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)
    return LOOK.render(LOOK.views(Batch(raw, torch.full((n, 2), 32), torch.arange(n)), 1))


def test_looking_at_a_network_moves_no_state_but_batch_statistics():
    net = game()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(rendered())
    moved = {k for k, v in net.state_dict().items() if not torch.equal(before[k], v)}
    assert moved
    assert all("running" in k or "num_batches" in k for k in moved)
    after = {k: v.clone() for k, v in net.state_dict().items()}
    net.snapshot(build.images(SMALL), LOOK)
    assert all(torch.equal(after[k], v) for k, v in net.state_dict().items())


def test_the_discriminators_loss_of_an_image_is_its_own_and_the_mean_over_generated_ones():
    net = game(diffaugment=False)
    out = net(rendered(5))
    d = [net.head(f).item() for f in out.q[0]]
    fake = sum(max(0.0, 1 + net.head(f).item()) for f in out.t[0]) / 5
    assert torch.allclose(out.loss, torch.tensor([max(0.0, 1 - s) + fake for s in d]), atol=1e-5)


def test_only_the_generators_player_moves_the_generator_and_only_when_due():
    net = game(d_steps=3)
    out = net(rendered())
    gradients = torch.autograd.grad(out.loss.mean(), list(net.generator.parameters()), allow_unused=True)
    assert all(g is None for g in gradients)
    (player,) = net.players()
    assert [player.times(s) for s in range(7)] == [0, 0, 1, 0, 0, 1, 0]
    grads = torch.autograd.grad(player.objective(after(net, out)), player.params)
    assert all(torch.isfinite(g).all() for g in grads)
    assert sum(float(g.abs().sum()) for g in grads) > 0


def test_the_generator_learns_to_raise_the_discriminators_score():
    net = game(generator_lr=1e-2, diffaugment=False)
    out = net(rendered())
    (player,) = net.players()
    z = net.generator.sample(16)

    def score():
        with torch.no_grad():
            return float(net.head(net.pooled(net.generator(z))).mean())

    before = score()
    for _ in range(10):
        grads = torch.autograd.grad(player.objective(after(net, out)), player.params)
        for p, g in zip(player.params, grads, strict=True):
            p.grad = g
        player.opt.step()
        biggan.iterate(net.generator)
    assert score() > before


def test_the_average_copies_the_generator_at_first_and_then_covers_its_buffers():
    net = game(keep=0.5, keep_from=3)
    at = [Progress(s, 9, 0, 1) for s in range(9)]
    out = net(rendered())
    net.after_step(after(net, out, at=at[1]))  # the first step of the generator: a copy
    assert all(torch.equal(a, b) for a, b in zip(net.generator.parameters(), net.averaged.parameters(), strict=True))
    old = copy.deepcopy(net.averaged)
    net(rendered())
    with torch.no_grad():
        for p in net.generator.parameters():
            p.add_(1)
    net.after_step(after(net, out, at=at[4]))  # not due
    assert torch.equal(net.averaged.bn.weight, old.bn.weight)
    net.after_step(after(net, out, at=at[5]))  # its third step: averaged
    for new, before, now in ((net.averaged.bn, old.bn, net.generator.bn),):
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert torch.allclose(getattr(new, name), (getattr(before, name) + getattr(now, name)) / 2)
        assert new.num_batches_tracked == now.num_batches_tracked
    assert not any(p.requires_grad for p in net.averaged.parameters())
    net.train()
    assert not net.averaged.training
    for m in net.averaged.modules():
        if isinstance(m, biggan.SpectralNorm):
            assert m.u.norm().item() == pytest.approx(1, abs=1e-5)


def test_an_average_that_keeps_nothing_is_a_copy():
    a, b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    b(torch.randn(8, 3))
    ema(a, b, 0.0, buffers=True)
    assert all(torch.equal(a.state_dict()[k], v) for k, v in b.state_dict().items())


def test_wrong_options_and_pixels_of_another_range_are_refused():
    for options, words in (({"d_steps": 0}, "d_steps=0"), ({"keep": 1.0}, "keep=1.0"), ({"size": 48}, "size=48")):
        with pytest.raises(HardlabError, match=words):
            game(**options)
    other = Look(PRESETS["eval"], (0.4,) * 3, (0.2,) * 3)
    with pytest.raises(HardlabError, match="pixel_mean"):
        game().check_look(other)


def test_every_rungs_networks_and_images_have_one_size_and_the_rate_is_two_ten_thousandths():
    for rung in recipes.RUNGS:
        run = recipes.recipe("gan", rung)
        assert run.optim.lr * run.batch_size / 256 == pytest.approx(2e-4)
        assert run.backbone.options.items() <= run.method.options.items()
        assert build.look(run).augment[0].size == run.method.options["size"]
    build.method(recipes.recipe("gan", "smoke"))


@pytest.mark.slow
def test_a_trained_gan_is_resumed_exactly_and_its_images_are_no_constant(tmp_path, monkeypatch):
    run = small_run("gan")
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 3)
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)
    step = run_folder.metrics(whole, "step")[-1]
    assert {"d_real", "d_fake"} <= step.keys()
    kept = sorted((whole / "snapshots").glob("method-*.npz"))
    images = np.load(kept[-1])["g_ema"]
    assert images.std(0).mean() > 0.5  # of grey levels, between latents
