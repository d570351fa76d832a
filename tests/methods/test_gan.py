"""The GAN that PPCL starts from: its networks, its losses, its game, and what is said about its images."""

import copy

import numpy as np
import pytest
import torch
from resuming import learned, rows, same, whole_and_parts
from scipy import linalg
from small_runs import small_run
from steps import after
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from hardlab import biggan, build, losses, recipes, run_folder
from hardlab.methods.base import ema
from hardlab.methods.gan import GAN
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import PRESETS, Look

SMALL = small_run("gan")
LOOK = Look(PRESETS["eval"], (0.5,) * 3, (0.5,) * 3)


def game(**options):
    torch.manual_seed(0)
    return GAN(biggan.Trunk(width=2), **({"width": 2, "latent": 8, "d_steps": 2} | options))


def rendered(n=6):
    raw = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)
    return LOOK.render(LOOK.views(Batch(raw, torch.full((n, 2), 32), torch.arange(n)), 1))


@pytest.mark.parametrize("size", [32, 64])
def test_generator_and_discriminator_speak_the_same_size_and_range(size):
    g, d = biggan.Generator(size, width=2, latent=5), biggan.Trunk(size, width=2)
    x = g(g.sample(3))
    assert x.shape == (3, 3, size, size)
    assert x.abs().max() <= 1
    assert d(x).shape == (3, d.dim)


def test_the_published_networks_have_bigans_number_of_channels():
    with torch.device("meta"):
        assert biggan.Generator().start.weight.shape == (4 * 4 * 256, 128)
        assert biggan.Trunk().dim == 256
        assert biggan.Trunk(64).dim == 1024


def test_every_layer_of_the_game_has_a_largest_singular_value_of_one():
    net = game()
    biggan.iterate(net, 50)
    seen = 0
    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            seen += 1
            assert torch.linalg.svdvals(m.weight.detach().flatten(1))[0].item() == pytest.approx(1, abs=2e-3)
    assert seen > 30


def test_spectral_norm_is_torchs_with_the_same_vectors():
    ours = biggan.spectral(nn.Linear(6, 4))
    theirs = nn.Linear(6, 4)
    theirs.load_state_dict({"weight": ours.parametrizations.weight.original.detach(), "bias": ours.bias.detach()})
    theirs = spectral_norm(theirs)
    theirs.parametrizations.weight[0]._u.copy_(ours.parametrizations.weight[0].u)
    theirs.parametrizations.weight[0]._v.copy_(ours.parametrizations.weight[0].v)
    assert torch.allclose(ours.weight, theirs.eval().weight)


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


def test_hinge_losses_equal_a_loop():
    scores = torch.linspace(-3, 3, 13)
    for s, real, fake in zip(scores, losses.hinge_real(scores), losses.hinge_fake(scores), strict=True):
        assert real.item() == pytest.approx(max(0.0, 1 - s.item()))
        assert fake.item() == pytest.approx(max(0.0, 1 + s.item()))


def test_the_discriminators_loss_of_an_image_is_its_own_and_the_mean_over_generated_ones():
    net = game(diffaugment=False)
    out = net(rendered(5))
    d = [net.head(f).item() for f in out.q[0]]
    fake = sum(max(0.0, 1 + net.head(f).item()) for f in out.t[0]) / 5
    assert torch.allclose(out.loss, torch.tensor([max(0.0, 1 - s) + fake for s in d]), atol=1e-5)


def test_only_the_generators_player_moves_the_generator_and_only_when_due():
    net = game(d_steps=3)
    out = net(rendered())
    mine = torch.autograd.grad(out.loss.mean(), list(net.generator.parameters()), allow_unused=True)
    assert all(g is None for g in mine)
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


def test_diffaugment_moves_and_cuts_images_and_lets_the_gradient_of_what_is_left_through():
    x = torch.rand(64, 3, 16, 16).add(1).requires_grad_()
    y = biggan.diffaugment(x)
    assert y.shape == x.shape
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad.unique(), torch.tensor([0.0, 1.0]))  # every pixel is shown once or not at all
    for i in range(64):
        shown, kept = y[i, 0] != 0, grad[i, 0] > 0
        assert int(shown.sum()) == int(kept.sum())
        assert torch.equal(y[i, :, shown], x[i, :, kept])  # in the same order: a shift
        assert int((~shown).sum()) >= 16  # at least a quarter of the cutout lies inside
        rows, columns = (kept.any(1).nonzero(), shown.any(1).nonzero())
        assert abs(int(rows[0]) - int(columns[0])) <= 8 + 2
    assert len({tuple((row[0] == 0).flatten().tolist()) for row in y.detach()}) > 32  # each image draws its own


def test_the_frechet_distance_is_the_closed_form_with_the_root_of_the_product():
    torch.manual_seed(1)
    a, b = torch.randn(400, 6), torch.randn(300, 6) @ torch.randn(6, 6) + 1
    ca, cb = torch.cov(a.T.double()).numpy(), torch.cov(b.T.double()).numpy()
    root = linalg.sqrtm(ca @ cb).real
    wanted = float((a.double().mean(0) - b.double().mean(0)).square().sum()) + (ca + cb - 2 * root).trace()
    assert biggan.frechet(a, b) == pytest.approx(wanted, rel=1e-6)
    assert biggan.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert biggan.frechet(a, a + 2) == pytest.approx(6 * 4, rel=1e-4)


def test_coverage_is_one_for_the_same_images_and_low_for_a_single_one_repeated():
    x = torch.randn(320, 4)
    assert biggan.coverage(x, x) == pytest.approx(1)
    assert biggan.coverage(x, x[:1].repeat(320, 1)) < 0.2


def test_the_probe_and_the_fixed_latents_are_the_same_in_every_run():
    torch.manual_seed(1)
    first = biggan.Probe()
    torch.manual_seed(2)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(first(x), biggan.Probe()(x))
    assert first(x).shape == (2, 112)
    images = build.images(SMALL)
    net = game()
    state = torch.get_rng_state()
    one, other = (net.snapshot(images, LOOK) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert one["g"].dtype == torch.uint8
    assert one["g"].shape == (64, 3, 32, 32)


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
