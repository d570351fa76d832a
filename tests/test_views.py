"""Views against torchvision: the distribution of every parameter, the pixels for given parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
import torchvision.transforms.v2.functional as F
from photos import MEAN, STD, draw, photos, rng
from scipy.stats import chisquare, ks_2samp, kstest
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms import ColorJitter, InterpolationMode, RandomResizedCrop

from hardlab import views
from hardlab.types import Batch, HardlabError, Rendered
from hardlab.views import COLOUR, PARAMS, PRESETS, Augment, Look, centre_distance, colour_distance, iou

AT = {name: i for i, name in enumerate(PARAMS)}
NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
ALL = {"blur": 0.5, "solarize": 0.3}


def make(size: int = 32, **fields: object) -> Look:
    return Look(Augment(size=size, **fields), MEAN, STD)


def row(h: int, w: int, **values: float) -> Tensor:
    """(1,1,P): the whole image without any appearance, but for ``values``."""
    named = {"image_h": h, "image_w": w, "height": h, "width": w, **NEUTRAL} | values
    return torch.tensor([named.get(name, 0.0) for name in PARAMS])[None, None]


def torchvision_view(raw: Tensor, p: Tensor, look: Look, size: int) -> Tensor:
    """One view of one image (3,H,W), operation by operation."""
    a, d = look.augment[0], dict(zip(PARAMS, p.tolist(), strict=True))

    def crop(x: Tensor) -> Tensor:
        box = [int(d[k]) for k in ("top", "left", "height", "width")]
        x = F.resized_crop(x, *box, [size, size], InterpolationMode(a.interpolation), antialias=True)
        x = x.clamp(0, 1)  # what 8-bit images do by themselves where the cubic kernel overshoots
        return F.horizontal_flip(x) if d["flip"] else x

    def appear(x: Tensor) -> Tensor:
        for which in list(permutations(range(4)))[int(d["order"])]:
            name = ("brightness", "contrast", "saturation", "hue")[which]
            x = (
                getattr(F, f"adjust_{name}")(x, d[name]) if d[name] or name != "hue" else x
            )  # has no double, no gradient
        x = F.rgb_to_grayscale(x, 3) if d["gray"] else x
        kernel = a.kernel or max(3, size // 10 // 2 * 2 + 1)
        x = F.gaussian_blur(x, [kernel, kernel], [d["sigma"], d["sigma"]]) if d["sigma"] else x
        return F.solarize(x, a.threshold) if d["solarize"] else x

    x = raw[:, : int(d["image_h"]), : int(d["image_w"])]
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    return F.normalize(crop(appear(x)) if a.crop == "last" else appear(crop(x)), list(MEAN), list(STD))


def furthest(look: Look, raw: Tensor, params: Tensor, size: int) -> float:
    """Largest difference to torchvision, in units of a pixel's [0,1]."""
    expected = [torch.stack([torchvision_view(r, q, look, size) for q in p]) for r, p in zip(raw, params, strict=True)]
    return float(
        ((look.apply(raw, params, size) - torch.stack(expected)) * torch.tensor(STD).view(3, 1, 1)).abs().max()
    )


# --- the distribution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(32, 32), (64, 48), (20, 90)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.6, 1.0)])
def test_crop_boxes_are_distributed_as_those_of_torchvision(h: int, w: int, scale: tuple[float, float]) -> None:
    n = 3000
    p = draw(make(scale=scale), n, h, w, 1)[:, 0].double()
    image = torch.empty(3, h, w)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(n)]).double()
    top, left, height, width = p[:, 2:6].unbind(1)
    for ours, other in [
        (height * width, theirs[:, 2] * theirs[:, 3]),
        (width / height, theirs[:, 3] / theirs[:, 2]),
        (top, theirs[:, 0]),
        (left, theirs[:, 1]),
        (top / (h - height + 1), theirs[:, 0] / (h - theirs[:, 2] + 1)),
        (left / (w - width + 1), theirs[:, 1] / (w - theirs[:, 3] + 1)),
    ]:
        assert ks_2samp(ours.numpy(), other.numpy()).pvalue > 1e-3
    assert (p[:, 2:4] + p[:, 4:6] <= p[:, :2]).all()


def test_a_box_that_never_fits_becomes_the_central_crop_of_torchvision() -> None:
    for h, w in [(10, 100), (100, 10), (30, 32)]:
        ours = draw(make(scale=(1.0, 1.0), ratio=(0.9, 0.91)), 50, h, w, 1)[:, 0, 2:6]
        theirs = RandomResizedCrop.get_params(torch.empty(3, h, w), [1.0, 1.0], [0.9, 0.91])
        assert (ours == torch.tensor(theirs)).all()


def test_jitter_factors_are_distributed_as_those_of_torchvision() -> None:
    strengths = (0.4, 1.5, 0.8, 0.2)
    n = 3000
    p = draw(make(jitter=strengths, jitter_p=1.0), n, 32, 32, 1)[:, 0]
    theirs = ColorJitter(*strengths)
    ranges = (theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue)
    other = torch.tensor([ColorJitter.get_params(*map(list, ranges))[1:] for _ in range(n)])
    for i, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        assert ks_2samp(p[:, AT[name]].numpy(), other[:, i].numpy()).pvalue > 1e-3


def test_all_twenty_four_orders_of_the_jitter_are_equally_likely() -> None:
    orders = draw(make(), 6000, 32, 32, 1)[..., AT["order"]].long().flatten()
    assert chisquare(orders.bincount(minlength=24).numpy()).pvalue > 1e-3


def test_every_operation_has_its_own_probability_per_sample() -> None:
    n, chance = 4000, {"flip": 0.3, "jitter_p": 0.7, "gray": 0.15, "blur": 0.6, "solarize": 0.25}
    p = draw(make(**chance), n, 32, 32, 2).flatten(0, 1)
    hits = {
        "flip": p[:, AT["flip"]] == 1,
        "jitter_p": colour_distance(p, row(32, 32)[0]) > 0,
        "gray": p[:, AT["gray"]] == 1,
        "blur": p[:, AT["sigma"]] > 0,
        "solarize": p[:, AT["solarize"]] == 1,
    }
    for name, share in chance.items():
        assert abs(hits[name].float().mean() - share) < 4 * math.sqrt(share * (1 - share) / (2 * n)), name
    table = torch.corrcoef(torch.stack([v.float() for v in hits.values()]))
    assert (table - torch.eye(len(hits))).abs().max() < 4 / math.sqrt(2 * n)


def test_sigma_is_uniform_where_there_is_blur_and_jitter_neutral_where_there_is_none() -> None:
    p = draw(make(blur=0.5, sigma=(0.1, 2.0), jitter_p=0.5), 4000, 32, 32, 1)[:, 0]
    sigma = p[:, AT["sigma"]]
    assert kstest(sigma[sigma > 0].numpy(), "uniform", (0.1, 1.9)).pvalue > 1e-3
    plain = p[(p[:, 7:11] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)]
    assert 0.45 < len(plain) / len(p) < 0.55


def test_slots_draw_from_their_own_entry_in_turn() -> None:
    look = Look(PRESETS["dino_global"], MEAN, STD)
    p = draw(look, 2000, 32, 32, 4)
    assert (p[:, 0::2, AT["sigma"]] > 0).all() and (p[:, 0::2, AT["solarize"]] == 0).all()
    assert abs((p[:, 1::2, AT["sigma"]] > 0).float().mean() - 0.1) < 0.03
    assert abs(p[:, 1::2, AT["solarize"]].mean() - 0.2) < 0.03


def test_the_same_seed_draws_the_same_views_and_another_seed_others() -> None:
    look = make(**ALL)
    assert torch.equal(draw(look, 8, 40, 30), draw(look, 8, 40, 30))
    assert not torch.equal(draw(look, 8, 40, 30), draw(look, 8, 40, 30, seed=1))


def test_images_of_one_pixel_and_of_odd_shapes_have_views() -> None:
    sizes = torch.tensor([[1, 1], [1, 50], [50, 1], [2, 3]])
    look = make(**ALL)
    p = look.draw(sizes, 3, rng())
    x = look.apply(photos(4, 56, 56), p)
    assert x.shape == (4, 3, 3, 32, 32) and x.isfinite().all()


# --- the pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"flip": 1},
        {"top": 3, "left": 5, "height": 17, "width": 9},
        {"top": 3, "left": 5, "height": 17, "width": 9, "flip": 1},
        {"brightness": 1.7},
        {"brightness": 0.2},
        {"contrast": 1.8},
        {"contrast": 0.1},
        {"saturation": 1.9},
        {"saturation": 0.0},
        {"hue": 0.31},
        {"hue": -0.5},
        {"gray": 1},
        {"sigma": 1.3},
        {"solarize": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(32, 32), (64, 48)])
def test_each_operation_gives_the_pixels_of_torchvision(values: dict[str, float], shape: tuple[int, int]) -> None:
    raw = photos(3, *shape)
    assert furthest(make(kernel=9), raw, row(*shape, **values).expand(3, 1, -1), 32) < 1e-5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("h", "w", "size"), [(32, 32, 32), (64, 48, 32), (32, 32, 16), (40, 100, 48)])
def test_the_whole_chain_gives_the_pixels_of_torchvision(h: int, w: int, size: int, interpolation: str) -> None:
    look = make(interpolation=interpolation, **ALL)
    assert furthest(look, photos(30, h, w), draw(look, 30, h, w, 3), size) < 2e-5


def test_each_order_of_the_jitter_gives_the_pixels_of_torchvision() -> None:
    look = make()
    params = torch.cat([row(32, 32, brightness=1.3, contrast=0.6, saturation=1.6, hue=0.1, order=o) for o in range(24)])
    assert furthest(look, photos(1, 32, 32).expand(24, -1, -1, -1), params, 32) < 1e-5


def test_a_crop_after_the_appearance_gives_the_pixels_of_torchvision_on_padded_images() -> None:
    look = make(crop="last", scale=(0.5, 1.0), kernel=3, **ALL)
    raw, sizes = photos(16, 64, 48), torch.tensor([[64, 48], [40, 30], [33, 48], [64, 17]]).repeat(4, 1)
    assert furthest(look, raw, look.draw(sizes, 3, rng()), 32) < 2e-5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_of_large_images_are_those_of_torchvision_on_bytes(interpolation: str) -> None:
    """Bit for bit for the same kernel, and within a level of Pillow, which ImageFolder's transforms use."""
    look, raw = make(96, interpolation=interpolation), photos(6, 200, 260)
    p = look.draw(torch.tensor([[200, 260]] * 6), 3, rng(2))
    p[..., COLOUR] = row(1, 1)[0, 0, COLOUR]
    x, mode = look.apply(raw, p), InterpolationMode(interpolation)
    for i, one in enumerate(raw):
        for view, q in zip(x[i], p[i], strict=True):
            box, flip = q[2:6].int().tolist(), bool(q[6])
            same = F.resized_crop(one, *box, [96, 96], mode, antialias=True)
            pillow = F.pil_to_tensor(F.resized_crop(F.to_pil_image(one), *box, [96, 96], mode))
            same, pillow = (F.horizontal_flip(y) if flip else y for y in (same, pillow))
            assert torch.equal(view, F.normalize(same.float() * (1 / 255), list(MEAN), list(STD)))
            assert (same.int() - pillow.int()).abs().max() <= 1


@pytest.mark.parametrize("crop", ["first", "last", "none"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_of_large_images_are_the_products_of_small_ones(
    crop: str, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of floats to rounding, of bytes to whole levels, rounded after either direction."""
    look, raw = make(64, crop=crop, interpolation=interpolation), photos(4, 200, 150) // 2 + 64  # without overshoot
    sizes = torch.tensor([[200, 150], [130, 150], [200, 90], [170, 140]])
    p, plain = look.draw(sizes, 2, rng(3)), look.draw(sizes, 2, rng(3))
    plain[..., COLOUR] = row(1, 1)[0, 0, COLOUR]
    pixels = (raw.float() / 255).requires_grad_()

    def rendered() -> tuple[Tensor, Tensor, Tensor]:
        x = look.apply(pixels, plain)  # the gradients of colours jump, where two channels of a pixel are the same
        gradient = torch.autograd.grad((x * torch.linspace(-1, 1, x.numel()).view(x.shape)).sum(), pixels)[0]
        return look.apply(pixels, p).detach(), gradient, look.apply(raw, plain) * torch.tensor(STD).view(3, 1, 1)

    one_by_one = rendered()
    monkeypatch.setattr(views, "_LARGE", 10**9)
    products = rendered()
    assert torch.allclose(one_by_one[0], products[0], atol=2e-5)
    assert torch.allclose(one_by_one[1], products[1], atol=1e-4 * float(products[1].abs().max()))
    levels = (one_by_one[2] - products[2]).abs() * 255
    assert levels.max() < 1.25
    assert (levels.max() > 0.1) == (crop != "last")  # whose colours make floats of bytes before


def test_rendering_large_images_leaves_the_number_of_threads_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        make(64).apply(photos(1, 150, 150), row(150, 150))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_float_images_are_rendered_like_the_same_bytes() -> None:
    look, raw = make(**ALL), photos(6, 32, 32)
    p = draw(look, 6, 32, 32)
    assert torch.allclose(look.apply(raw.float() / 255, p), look.apply(raw, p), atol=1e-5)


def test_a_blur_wider_than_the_image_is_mirrored_again_and_again() -> None:
    raw = photos(1, 32, 32)
    wide = torch.nn.functional.pad(raw[..., :8, :8].float() / 255, (7, 7, 7, 7), mode="reflect")
    wide = torch.nn.functional.pad(wide, (4, 4, 4, 4), mode="reflect")
    expected = F.gaussian_blur(wide, [23, 23], [2.0, 2.0])[..., 11:19, 11:19]
    p = row(32, 32, height=8, width=8, sigma=2.0)
    rendered = Look(Augment(size=8, kernel=23), (0, 0, 0), (1, 1, 1)).apply(raw, p)[:, 0]
    assert torch.allclose(rendered, expected, atol=1e-5)


@pytest.mark.parametrize("crop", ["first", "last"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_what_lies_outside_the_crop_or_in_the_padding_is_never_seen(crop: str, interpolation: str) -> None:
    look = make(crop=crop, interpolation=interpolation, **ALL)
    raw = photos(8, 56, 40).float() / 255
    sizes = torch.tensor([[48, 33], [56, 24], [10, 40], [31, 31]]).repeat(2, 1)
    p = look.draw(sizes, 4, rng())
    for i in range(8):
        for j in range(4):
            top, left, h, w = p[i, j, 2:6].int().tolist() if crop == "first" else (0, 0, *sizes[i].tolist())
            spoilt = torch.full_like(raw[i : i + 1], 1e6)
            spoilt[..., top : top + h, left : left + w] = raw[i, :, top : top + h, left : left + w]
            one = p[i : i + 1, j : j + 1]
            assert torch.allclose(look.apply(spoilt, one), look.apply(raw[i : i + 1], one), atol=1e-5)


def test_a_view_does_not_depend_on_the_rest_of_the_batch() -> None:
    look, raw = make(**ALL), photos(150, 32, 32)
    p = draw(look, 150, 32, 32, 3)
    x, mixed = look.apply(raw, p), torch.randperm(150)[:70]
    assert torch.allclose(look.apply(raw[mixed], p[mixed][:, [2, 0]]), x[mixed][:, [2, 0]], atol=1e-5)
    assert torch.allclose(look.apply(raw[7:8], p[7:8, 1:2]), x[7:8, 1:2], atol=1e-5)


def test_rendering_twice_gives_the_same_bits_and_leaves_its_input_alone() -> None:
    look, raw = make(crop="last", **ALL), photos(9, 32, 32).float() / 255
    p = draw(look, 9, 32, 32)
    before, x = (raw.clone(), p.clone()), look.apply(raw, p)
    assert torch.equal(look.apply(raw, p), x) and torch.equal(raw, before[0]) and torch.equal(p, before[1])


def test_every_slot_is_contiguous() -> None:
    look = make()
    x = look.apply(photos(5, 32, 32), draw(look, 5, 32, 32, 3))
    assert x.shape == (5, 3, 3, 32, 32) and all(x[:, i].is_contiguous() for i in range(3))


def test_a_smaller_rendering_is_the_rendering_of_a_smaller_augmentation() -> None:
    big, small, raw = make(**ALL), make(16, **ALL), photos(6, 32, 32)
    p = draw(big, 6, 32, 32)
    assert torch.equal(big.apply(raw, p, 16), small.apply(raw, p))


def test_plain_is_the_whole_image_resized_and_normalised() -> None:
    raw, sizes = photos(3, 64, 48), torch.tensor([[64, 48], [20, 30], [32, 32]])
    x = make(**ALL).plain(raw, sizes)
    for i, (h, w) in enumerate(sizes.tolist()):
        whole = F.resize(raw[i, :, :h, :w].float() / 255, [32, 32], antialias=True)
        assert torch.allclose(x[i], F.normalize(whole, list(MEAN), list(STD)), atol=1e-4)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [ALL, {"interpolation": "bicubic", "blur": 1.0}, {"crop": "last", "scale": (0.5, 1.0), **ALL}], ids=str
)
def test_the_gradient_to_the_pixels_is_the_numerical_one(fields: dict[str, object]) -> None:
    look = make(5, **fields)
    raw = (torch.rand(4, 3, 7, 6, dtype=torch.double) * 0.8 + 0.1).requires_grad_()
    p = draw(look, 4, 7, 6)
    assert torch.autograd.gradcheck(lambda r: look.apply(r, p), (raw,), eps=1e-7, atol=1e-5, fast_mode=True)


def test_the_gradient_is_that_of_torchvision() -> None:
    look = make(24, jitter=(0.2, 0.2, 0.2, 0.1), blur=0.5)
    raw, p = photos(4, 32, 32).double() / 255 * 0.7 + 0.1, draw(make(24, jitter_p=1.0, blur=0.5), 4, 32, 32)
    raw = (raw + torch.rand_like(raw) * 0.05).requires_grad_()
    weight = torch.rand(4, 2, 3, 24, 24, dtype=torch.double)
    p[..., AT["hue"]] = 0
    (ours,) = torch.autograd.grad((look.apply(raw, p) * weight).sum(), raw)
    theirs = torch.stack(
        [torch.stack([torchvision_view(raw[i], p[i, j], look, 24) for j in range(2)]) for i in range(4)]
    )
    (other,) = torch.autograd.grad((theirs * weight).sum(), raw)
    assert torch.allclose(ours, other, atol=1e-6) and ours.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_the_gradient_of_a_gray_image_is_finite(value: float) -> None:
    look = make(**ALL)
    raw = torch.full((30, 3, 32, 32), value, requires_grad=True)
    look.apply(raw, draw(look, 30, 32, 32)).square().sum().backward()
    assert raw.grad is not None and raw.grad.isfinite().all()


# --- geometry, views, presets, mistakes -------------------------------------------------------------------------------


def test_iou_is_that_of_torchvision() -> None:
    p = draw(make(), 200, 64, 48)
    boxes = torch.stack((p[..., 3], p[..., 2], p[..., 3] + p[..., 5], p[..., 2] + p[..., 4]), -1)
    expected = torch.stack([box_iou(b[:1], b[1:])[0, 0] for b in boxes])
    assert torch.allclose(iou(p[:, 0], p[:, 1]), expected) and (expected == 0).any()


def test_distances_have_their_closed_forms() -> None:
    a = row(30, 40, top=2, left=4, height=10, width=20, brightness=1.5, hue=0.1)[0, 0]
    b = row(30, 40, top=8, left=0, height=4, width=12, contrast=0.8)[0, 0]
    assert centre_distance(a, b) == pytest.approx(math.hypot(7 - 10, 14 - 6) / 50)
    assert colour_distance(a, b) == pytest.approx(math.sqrt(0.5**2 + 0.2**2 + 0.1**2))
    assert colour_distance(a, a) == 0 and centre_distance(a, a) == 0 and iou(a, a) == 1


def test_recolour_keeps_crops_and_flips_and_changes_the_rest() -> None:
    look = make(**ALL)
    p = draw(look, 300, 40, 30)
    fresh = look.recolour(p, rng(1))
    assert PARAMS[COLOUR] == ("brightness", "contrast", "saturation", "hue", "order", "gray", "sigma", "solarize")
    assert torch.equal(fresh[..., :7], p[..., :7])
    assert not torch.equal(fresh[..., COLOUR], p[..., COLOUR])
    assert ks_2samp(fresh[..., AT["hue"]].flatten().numpy(), p[..., AT["hue"]].flatten().numpy()).pvalue > 1e-3


def test_views_are_drawn_at_once_and_rendered_once() -> None:
    look, raw = make(), photos(4, 32, 32)
    batch = Batch(raw, torch.full((4, 2), 32), torch.tensor([5, 9, 9, 2]))
    v = look.views(batch, 3, rng())
    assert not isinstance(v, Rendered) and v.params.shape == (4, 3, len(PARAMS)) and v.group.tolist() == [0, 1, 2, 3]
    drawn = look.render(v)
    assert torch.equal(drawn.x, look.apply(raw, v.params)) and look.render(drawn) is drawn


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Augment(size=0), "size"),
        (lambda: Augment(size=32, kernel=4), "odd"),
        (lambda: Augment(size=32, scale=(0.5, 0.2)), "scale"),
        (lambda: Augment(size=32, jitter=(1, 1, 1, 0.6)), "hue"),
        (lambda: Augment(size=32, gray=1.2), "from 0 to 1"),
        (lambda: Augment(size=32, grey=0.2), "gray"),
        (lambda: Augment(size=32, interpolation="nearest"), "bicubic"),
        (lambda: Augment(size=32).but(flip="often"), "flip"),
        (lambda: Look([], MEAN, STD), "at least one"),
        (lambda: Look([Augment(size=32), Augment(size=16)], MEAN, STD), "size"),
        (lambda: Look(Augment(size=32), MEAN, (1, 0, 1)), "std"),
        (lambda: draw(make(), 2, 0, 5), "0, 5"),
        (lambda: draw(make(), 2, 5, 5, views=0), "views"),
        (lambda: make().draw(torch.tensor([5, 5]), 2), "(B,2)"),
        (lambda: make().apply(photos(1, 32, 32), row(32, 32), 0), "size = 0"),
        (lambda: make().apply(photos(1, 32, 32), row(32, 32)[..., 1:]), "params"),
        (lambda: make().apply(photos(2, 32, 32), row(32, 32)), "params"),
        (lambda: make().apply(photos(1, 32, 32).long(), row(32, 32)), "uint8"),
        (lambda: make().apply(photos(1, 32, 32), row(40, 32)), "40"),
        (lambda: make().apply(photos(1, 32, 32), row(32, 32, left=1)), "left"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(call: Callable[[], object], says: str) -> None:
    with pytest.raises(HardlabError, match=says.replace("(", r"\(").replace(")", r"\)")):
        call()


@pytest.mark.gpu
def test_a_gpu_draws_and_renders_what_the_cpu_does() -> None:
    look, raw = make(**ALL), photos(64, 64, 48)
    sizes = torch.tensor([[64, 48]]).repeat(64, 1)
    p = look.draw(sizes.cuda(), 4, rng())  # a generator of the CPU draws the same numbers for every device
    assert p.is_cuda and torch.allclose(p.cpu(), look.draw(sizes, 4, rng()))
    assert torch.allclose(look.apply(raw.cuda(), p).cpu(), look.apply(raw, p.cpu()), atol=1e-4)
