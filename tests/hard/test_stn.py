"""The spatial transformer as adversary: its geometry, its penalties, and whom its gradient may touch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from resuming import learned, rows, same, whole_and_parts
from small_runs import small_run
from steps import looked
from torch import nn

from hardlab import build, nets, recipes, registry
from hardlab.hard.stn import STN, bounding_box, matrices, sample, share_of_image, start_of
from hardlab.methods.dino import DINO
from hardlab.methods.simsiam import SimSiam
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import PARAMS, PRESETS, Look, iou

MODES = [
    "translation", "scale", "scale-sym", "rotation", "translation-scale", "translation-scale-sym",
    "rotation-translation", "rotation-translation-scale", "rotation-translation-scale-sym", "affine",
]  # fmt: skip


def batch(b=6, size=32):
    raw = torch.randint(0, 256, (b, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Batch(raw, torch.full((b, 2), size), torch.arange(b))


def looks(*local):
    plain = PRESETS["simclr_cifar"][0]
    return Look(plain, (0.5,) * 3, (0.25,) * 3, local=[plain.but(size=16, scale=(0.05, 0.4))] * len(local))


def simsiam():
    torch.manual_seed(0)
    return SimSiam(nets.Tiny(width=4), dim=8, hidden=4)


def dino(local=3):
    torch.manual_seed(0)
    made = DINO(nets.Tiny(width=4), hidden=8, bottleneck=4, prototypes=16)
    made.multi_crop(local)
    return made


def installed(method, moved=0.0, **options):
    """An STN on a method, its heads away from the identity by random weights of size ``moved``."""
    torch.manual_seed(1)
    stn = STN(**STN.SMALL | options)
    stn.install(method)
    for head in stn.net.heads:
        nn.init.normal_(head[-1].weight, std=moved)
        head[-1].bias.data += moved * torch.randn_like(head[-1].bias)
    return stn


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_starts_at_the_identity(mode):
    assert torch.equal(matrices(torch.tensor(start_of(mode)), mode), torch.eye(2, 3))
    theta = installed(dino(), mode=mode).theta(batch().raw, batch().sizes, looks(1))
    assert torch.allclose(theta, torch.eye(2, 3).expand(6, 5, 2, 3), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_restricts_theta_as_its_name_says(mode):
    theta = installed(dino(), moved=0.3, mode=mode, limit="none").theta(batch().raw, batch().sizes, looks(1))
    block, shift = theta[..., :2], theta[..., 2]
    eye = torch.eye(2)
    if mode != "affine" and "translation" not in mode:
        assert (shift == 0).all()
    else:
        assert (shift != 0).all()
    gram = block @ block.mT
    if mode == "translation":
        assert (block == eye).all()
    elif mode in ("rotation", "rotation-translation"):
        assert torch.allclose(gram, eye.expand_as(gram), atol=1e-5)
        assert not torch.allclose(block, eye.expand_as(block), atol=1e-2)
    elif mode.endswith("sym"):
        assert torch.allclose(gram, gram[..., :1, :1] * eye, atol=1e-5)
    elif mode != "affine":
        assert torch.allclose(gram[..., 0, 1], torch.zeros(6, 5), atol=1e-5)  # two axes, at right angles
        assert not torch.allclose(gram[..., 0, 0], gram[..., 1, 1], atol=1e-3)
    if "rotation" not in mode and mode != "affine":
        assert (block[..., 0, 1] == 0).all()
        assert (block[..., 1, 0] == 0).all()


def test_numbers_give_the_matrix_that_a_loop_builds():
    angle, tx, ty, sx, sy = 0.3, 0.1, -0.2, 0.5, 0.7
    theta = matrices(torch.tensor([angle, tx, ty, sx, sy]), "rotation-translation-scale")
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    assert torch.allclose(theta[:, :2], torch.diag(torch.tensor([sx, sy])) @ turn)
    assert torch.allclose(theta[:, 2], torch.tensor([tx, ty]))


@pytest.mark.parametrize("moved", [0.3, 3.0])
def test_the_limit_to_the_image_keeps_every_crop_inside(moved):
    stn = installed(dino(), moved=moved, mode="affine")
    theta = stn.theta(batch().raw, batch().sizes, looks(1))
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)])
    assert ((theta @ corners.T).abs() <= 1 + 1e-5).all()


def test_the_sphere_keeps_the_numbers_within_the_radius_of_their_kind_of_crop():
    stn = installed(dino(), mode="affine", limit="sphere", radius=0.2, local_radius=0.6)
    start = torch.tensor(start_of("affine"))
    numbers = start + torch.randn(6, 5, 6) * torch.tensor([0.01, 5, 0.01, 5, 0.1])[:, None]
    kept = stn.confine(numbers)
    for row in range(6):
        for crop in range(5):
            offset, radius = numbers[row, crop] - start, 0.2 if crop < 2 else 0.6
            expected = start + offset * min(1, radius / float(offset.norm()))
            assert torch.allclose(kept[row, crop], expected, atol=1e-6)


def test_the_identity_renders_the_image_itself_and_any_other_size_as_interpolation_does():
    b = batch()
    eye = torch.eye(2, 3).expand(6, 2, 3)
    assert torch.allclose(sample(b.raw, b.sizes, eye, 32), b.raw / 255, atol=1e-6)
    expected = F.interpolate(b.raw / 255, size=48, mode="bilinear", align_corners=False)
    assert torch.allclose(sample(b.raw, b.sizes, eye, 48), expected, atol=1e-5)


def test_a_crop_without_rotation_is_the_one_that_look_renders():
    look, b = looks(), batch()
    params = torch.zeros(6, 1, len(PARAMS))
    params[..., :6] = torch.tensor([32.0, 32, 4, 10, 16, 20])  # top 4, left 10, 16 x 20 pixels
    params[..., 7:10] = 1
    expected = look.apply(b.raw, params, 40)[:, 0]  # larger than the crop, where antialiasing plays no part
    theta = torch.tensor([[20 / 32, 0, (10 + 10) / 16 - 1], [0, 16 / 32, (4 + 8) / 16 - 1]]).expand(6, 2, 3)
    actual = (sample(b.raw, b.sizes, theta, 40) - 0.5) / 0.25
    inner = slice(2, -2)  # at its rim Look reads no pixel from outside the crop
    assert torch.allclose(actual[..., inner, inner], expected[..., inner, inner], atol=1e-4)
    assert torch.allclose(bounding_box(theta[:, None], params), params, atol=1e-4)


def test_images_of_different_sizes_are_cropped_by_their_true_extent_and_outside_is_black():
    small = torch.randint(1, 256, (1, 3, 20, 12), dtype=torch.uint8)
    padded = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    padded[..., :20, :12] = small
    theta = torch.tensor([[[0.6, 0.1, 0.1], [0.2, 0.5, -0.2]]])
    alone = sample(small, torch.tensor([[20, 12]]), theta, 16)
    assert torch.allclose(sample(padded, torch.tensor([[20, 12]]), theta, 16), alone, atol=1e-5)
    away = torch.tensor([[[0.5, 0, 1.6], [0, 0.5, 0]]])
    assert (sample(padded, torch.tensor([[20, 12]]), away, 8) == 0).all()


def test_the_logged_box_holds_every_corner_of_the_crop_and_lies_in_the_image():
    theta = torch.randn(40, 2, 2, 3) * 0.7
    params = torch.zeros(40, 2, len(PARAMS))
    params[..., 0], params[..., 1] = 24, 40
    box = bounding_box(theta, params)
    for crop, row in zip(theta.flatten(0, 1), box.flatten(0, 1), strict=True):
        corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)]) @ crop.T
        xs, ys = (corners[:, 0] + 1) * 20, (corners[:, 1] + 1) * 12
        top, left, height, width = row[2:6].tolist()
        if xs.max() > 1 and ys.max() > 1 and xs.min() < 39 and ys.min() < 23:
            assert top == pytest.approx(max(0, float(ys.min())), abs=1.01)
            assert left + width == pytest.approx(min(40, float(xs.max())), abs=1.01)
        assert top >= 0
        assert left >= 0
        assert height >= 1 - 1e-4
        assert width >= 1 - 1e-4
        assert top + height <= 24 + 1e-4
        assert left + width <= 40 + 1e-4
    assert ((iou(box[:, 0], box[:, 1]) >= 0) & (iou(box[:, 0], box[:, 1]) <= 1)).all()


def test_the_area_of_a_crop_and_its_gradient_are_those_of_the_determinant():
    theta = torch.randn(5, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    expected = theta[..., :2].det().abs()
    assert torch.allclose(share_of_image(theta), expected, atol=1e-12)
    grads = [torch.autograd.grad(area.square().sum(), theta)[0] for area in (share_of_image(theta), expected)]
    assert torch.allclose(*grads, atol=1e-12)


@pytest.mark.parametrize("penalty", ["tcp", "area", "identity", "none"])
def test_a_penalty_is_its_closed_form(penalty):
    stn, look = installed(dino(), penalty=penalty, target="mean"), looks(1)
    theta = torch.randn(6, 5, 2, 3, requires_grad=True)

    def huber(x):
        return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5

    total = []
    for row in theta.detach().double().numpy():
        for crop, m in enumerate(row):
            low, high = (0.08, 1.0) if crop < 2 else (0.05, 0.4)
            area = abs(m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0])
            stays = (1 - abs(m[0, 2]) / 2) * (1 - abs(m[1, 2]) / 2)
            total.append(
                {
                    "tcp": huber(area - (low + high) / 2) + huber(stays - (low**0.125 + high**0.125) / 2),
                    "area": (area - (low + high) / 2) ** 2,
                    "identity": ((m - np.eye(2, 3)) ** 2).mean(),
                    "none": 0.0,
                }[penalty]
            )
    assert stn.cost(theta, look).item() == pytest.approx(np.mean(total), rel=1e-4)


def test_a_uniform_target_is_drawn_from_the_range_of_the_crops_area():
    stn, look = installed(dino(), penalty="area"), looks(1)
    theta = torch.zeros(4000, 5, 2, 3)  # area 0: the error is the squared target
    stn.large = 5
    low, high = PRESETS["simclr_cifar"][0].scale
    expected = (high**3 - low**3) / 3 / (high - low)  # mean of the square
    stn.net.heads = stn.net.heads[:5]
    assert stn.cost(theta, look).item() == pytest.approx(expected, rel=0.02)


def views(stn, method, look, b=None):
    b = b or batch()
    v = look.views(b, method.slots, torch.Generator().manual_seed(0), method.locals)
    now = looked(stn, method, v, look)
    now.out = method(now.views)
    return now


@pytest.mark.parametrize(("make", "local"), [(simsiam, 0), (dino, 3)])
def test_the_learners_gradient_is_that_of_the_same_views_without_an_adversary(make, local):
    method, look = make(), looks(*range(local))
    stn = installed(method, moved=0.1)
    now = views(stn, method, look)
    v, out = now.views, now.out
    (player,) = stn.players(method)
    assert player.joint
    parameters = [p for p in method.parameters() if p.requires_grad]
    actual = torch.autograd.grad(out.loss.mean(), parameters, retain_graph=True)
    ours = torch.autograd.grad(player.objective(now), player.params)
    assert any(g.abs().max() > 0 for g in ours)
    fixed = replace(v, x=v.x.detach(), local=tuple(x.detach() for x in v.local))
    expected = torch.autograd.grad(method(fixed).loss.mean(), parameters)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(("make", "local"), [(simsiam, 0), (dino, 3)])
def test_a_step_of_the_adversary_raises_the_learners_loss_by_its_slope(make, local):
    method, look, lr = make(), looks(*range(local)), 5e-6
    stn = installed(method, moved=0.1, penalty="none", optim="sgd", lr=lr)
    (player,) = stn.players(method)
    now = views(stn, method, look)
    out = now.out
    grads = torch.autograd.grad(player.objective(now), player.params)
    for p, g in zip(player.params, grads, strict=True):
        p.grad = g
    player.opt.step()
    after = views(stn, method, look).out
    # against the labels of before: no gradient comes through those
    risen = method.score(after.q, out.t, group=out.views.group).mean() - out.loss.mean()
    assert risen.item() == pytest.approx(lr * sum(float(g.square().sum()) for g in grads), rel=0.25)


def test_the_gradient_of_the_crops_is_that_of_finite_differences():
    b = batch(1)
    smooth = F.avg_pool2d(b.raw.double() / 255, 9, 1, 4)
    theta = torch.tensor([[[0.61, 0.07, 0.03], [-0.05, 0.57, -0.02]]], dtype=torch.double, requires_grad=True)
    weights = torch.randn(3, 9, 9, dtype=torch.double)
    value = (sample(smooth, b.sizes, theta, 9)[0] * weights).sum()
    (slope,) = torch.autograd.grad(value, theta)
    for i in range(2):
        for j in range(3):
            step = torch.zeros_like(theta)
            step[0, i, j] = 1e-7
            more, less = ((sample(smooth, b.sizes, theta + s, 9)[0] * weights).sum() for s in (step, -step))
            assert slope[0, i, j].item() == pytest.approx(((more - less) / 2e-7).item(), rel=1e-3, abs=1e-4)


def test_views_are_rendered_in_float32_under_autocast_with_flip_and_appearance_as_drawn():
    method, look = dino(), looks(*range(3))
    stn = installed(method)
    v = look.views(batch(), 2, torch.Generator().manual_seed(0), 3)
    with torch.autocast("cpu", torch.bfloat16):
        actual = looked(stn, method, v, look).views
    assert actual.x.dtype == torch.float32
    assert actual.x.shape == (6, 2, 3, 32, 32)
    assert [x.shape for x in actual.local] == [(6, 3, 16, 16)] * 3
    assert torch.equal(actual.params[..., 6:], v.params[..., 6:])
    whole = v.params.clone()
    whole[..., 2:6] = torch.tensor([0.0, 0, 32, 32])
    assert torch.allclose(actual.x, look.apply(v.raw, whole), atol=1e-5)  # theta is the identity at first
    assert torch.equal(actual.params[..., :6], whole[..., :6])
    assert torch.equal(actual.local_params[..., 2:6], whole[:, :1, 2:6].expand(6, 3, 4))


def test_a_snapshot_holds_theta_and_crops_of_fixed_images_and_changes_nothing():
    class Fixed:
        def __len__(self):
            return 6

        def all(self, size):
            yield batch(size)

    method, look = dino(), looks(*range(3))
    stn = installed(method, moved=0.1)
    state = {k: x.clone() for k, x in stn.state_dict().items()}
    random = torch.get_rng_state()
    kept = stn.snapshot(Fixed(), look)
    assert kept["theta"].shape == (6, 5, 2, 3)
    assert kept["view_0"].shape == (6, 3, 32, 32)
    assert kept["view_4"].shape == (6, 3, 16, 16)
    assert all(torch.equal(state[k], x) for k, x in stn.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert stn.net.training


def test_what_is_logged_tells_a_static_output_from_one_that_looks_at_the_image():
    method, look = dino(), looks(*range(3))
    for moved in (0.0, 0.1):
        stn = installed(method, moved=moved)
        now = views(stn, method, look)
        stn.after_step(now)
        logs = stn.logs(now)
        assert set(logs) == {"penalty", "area", "area_local", "spread"}
        assert (logs["spread"] > 1e-6) == (moved > 0)
        if not moved:
            assert logs["area"] == pytest.approx(1)
            assert logs["area_local"] == pytest.approx(1)


def test_the_rate_follows_half_a_cosine_or_stays():
    for schedule, expected in (("cosine", 0.25), ("constant", 0.5)):
        stn = installed(simsiam(), lr=0.5, schedule=schedule)
        (player,) = stn.players(simsiam())
        stn.before_step(Progress(5, 10, 0, 1))
        assert player.opt.param_groups[0]["lr"] == pytest.approx(expected)


def test_impossible_options_and_a_second_chooser_of_views_are_refused():
    for options in ({"lr": 0.0}, {"weight": -1.0}, {"radius": 0.0}, {"input_size": 1}):
        with pytest.raises(HardlabError, match=next(iter(options))):
            STN(**options)
    with pytest.raises(HardlabError, match="mode"):
        registry.build("strategy", "stn", {"mode": "shear"})
    for other in ("hvs", "iou"):
        run = recipes.recipe("simsiam").with_({"hard": ["stn", other]})
        with pytest.raises(HardlabError, match="keep one"):
            build.strategies(run)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_bitwise_like_one_that_was_not(tmp_path, monkeypatch):
    run = small_run("stn-affine")
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 3)
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)
    assert "stn.spread" in rows(whole)[0]
    last = sorted((whole / "snapshots").glob("stn-*.npz"))[-1]
    assert np.load(last)["theta"].shape == (8, 4, 2, 3)


@pytest.mark.parametrize("rung", recipes.RUNGS)
@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if name.startswith("stn-")])
def test_the_rows_of_table_5_build_at_every_rung(name, rung):
    run = recipes.recipe(name, rung)
    with torch.device("meta"):
        strategies = build.strategies(run, build.method(run))
    assert [s.mode for s in strategies] == ([] if name == "stn-baseline" else [name.removeprefix("stn-")])
