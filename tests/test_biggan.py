"""BigGAN's networks, DiffAugment and the distances of images against torch, closed forms and loops."""

from __future__ import annotations

import pytest
import torch
from made_gan import LOOK, SMALL, game
from scipy import linalg
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from hardlab import biggan, build


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
    layers = 0
    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            layers += 1
            assert torch.linalg.svdvals(m.weight.detach().flatten(1))[0].item() == pytest.approx(1, abs=2e-3)
    assert layers > 30


def test_spectral_norm_is_torchs_with_the_same_vectors():
    ours = biggan.spectral(nn.Linear(6, 4))
    theirs = nn.Linear(6, 4)
    theirs.load_state_dict({"weight": ours.parametrizations.weight.original.detach(), "bias": ours.bias.detach()})
    theirs = spectral_norm(theirs)
    theirs.parametrizations.weight[0]._u.copy_(ours.parametrizations.weight[0].u)
    theirs.parametrizations.weight[0]._v.copy_(ours.parametrizations.weight[0].v)
    assert torch.allclose(ours.weight, theirs.eval().weight)


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
    expected = float((a.double().mean(0) - b.double().mean(0)).square().sum()) + (ca + cb - 2 * root).trace()
    assert biggan.frechet(a, b) == pytest.approx(expected, rel=1e-6)
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
