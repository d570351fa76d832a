"""iBOT against loops, lightly's patch loss and a hand-made transformer pass; Hard View Selection on its views."""

import math

import numpy as np
import pytest
import torch
from lightly.loss import IBOTPatchLoss
from resuming import learned, same, whole_and_parts
from steps import after

from hardlab import nets, recipes, run_folder, train
from hardlab.hard.hvs import HVS
from hardlab.methods.dino import DINO
from hardlab.methods.ibot import ATTEMPTS, IBOT, blocks
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import PRESETS, Look

B, K, T = 6, 12, 16


def method(local=0, **options):
    torch.manual_seed(0)
    small = {"hidden": 16, "bottleneck": 8, "prototypes": K, "unmasked": 0.3, "teacher_warmup_epochs": 0}
    made = IBOT(nets.vit_micro(patch=8), **small | options)
    with torch.no_grad():  # at its start it is zero, and so is what a wrong place of it would change
        made.mask_token.normal_()
    made.multi_crop(local)
    return made


@pytest.fixture
def look():
    globals_ = [a.but(size=32) for a in PRESETS["dino_global"]]
    return Look(globals_, (0.5,) * 3, (0.25,) * 3, local=[PRESETS["dino_local"][0].but(size=16)])


def views(look, n=2, local=0, seed=0, count=B):
    raw = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    batch = Batch(raw, torch.full((count, 2), 32), torch.arange(count))
    return look.render(look.views(batch, n, torch.Generator().manual_seed(seed), local))


def patch_logits(net, x, masked=None):
    """Of student or teacher on (B,3,32,32), its tokens made block by block: [CLS] (B,K) and patches (B,T,K)."""
    backbone, head = (net.backbone, net.head) if masked is not None else (net.teacher, net.teacher_head)
    tokens = torch.nn.functional.conv2d(x, backbone.patch_embed.proj.weight, backbone.patch_embed.proj.bias, stride=8)
    tokens = tokens.flatten(2).mT.clone()
    for i in range(len(x)):
        for t in range(T):
            if masked is not None and masked[i, t]:
                tokens[i, t] = net.mask_token
    tokens = torch.cat([backbone.cls_token.expand(len(x), 1, -1), tokens], 1) + backbone.pos_embed
    for block in backbone.blocks:
        tokens = block(tokens)
    out = torch.stack([head(t) for t in backbone.norm(tokens).unbind(1)], 1)
    return out[:, 0], out[:, 1:]


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_the_loss_of_each_image_is_that_of_a_loop_over_crops_and_masked_patches(look):
    net = method(local=2, cls_weight=0.5, patch_weight=2.0, patch_temperature=0.06, teacher_temperature=0.05)
    net.center.copy_(torch.randn(K))
    net.patch_center.copy_(torch.randn(K))
    with torch.no_grad():
        for p in net.teacher_head.parameters():  # a teacher that is not the student
            p.add_(0.02 * torch.randn_like(p))
    v = views(look, 2, 2)
    masks = [net.masks(v, [i]) for i in range(2)]
    q_cls, q_patch, t_cls, t_patch = [], [], [], []
    with torch.no_grad():
        for i in range(2):
            for made, into in zip(patch_logits(net, v.slot(i), masks[i]), (q_cls, q_patch), strict=True):
                into.append(made)
            for made, into in zip(patch_logits(net, v.slot(i)), (t_cls, t_patch), strict=True):
                into.append(made)
        q_cls += [net.head(net.backbone(v.slot(i))) for i in (2, 3)]
    actual = net(v).loss
    masked = 0
    for i in range(B):
        cls, patch = [], []
        for g in range(2):
            p = softmax((t_cls[g][i] - net.center).double().numpy() / 0.05)
            for s in range(4):
                if s != g:
                    cls.append(-(p * np.log(softmax(q_cls[s][i].double().numpy() / 0.1))).sum())
            terms = []
            for t in range(T):
                if masks[g][i, t]:
                    p = softmax((t_patch[g][i, t] - net.patch_center).double().numpy() / 0.06)
                    terms.append(-(p * np.log(softmax(q_patch[g][i, t].double().numpy() / 0.1))).sum())
            masked += len(terms)
            patch.append(np.mean(terms) if terms else 0.0)
        assert actual[i].item() == pytest.approx(0.5 * np.mean(cls) + 2.0 * np.mean(patch), rel=1e-4)
    assert 0 < masked < 2 * B * T


def test_the_loss_of_the_patches_is_lightlys(look):
    net, peer = method(ratio=0.4, spread=0.1, unmasked=0.4), IBOTPatchLoss(K, teacher_temp=0.07, student_temp=0.1)
    net.patch_center.copy_(torch.randn(K))
    peer.center.center.copy_(net.patch_center)
    v = views(look)
    masked = net.masks(v, [0])
    q, t = torch.randn(B, T, 8), torch.randn(B, T, 8)
    with torch.no_grad():
        expected = peer(
            net.teacher_head.prototypes(t[masked]), net.head.prototypes(q[masked]), masked.view(B, 4, 4), 0.07
        )
        assert net.patch_loss(q, t, masked).mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert not masked.any(1).all()


def test_without_patches_it_is_dino_on_masked_crops_and_without_masks_dino_itself(look):
    net, v = method(local=1, unmasked=1.0), views(look, 2, 1)
    torch.manual_seed(0)
    plain = DINO(nets.vit_micro(patch=8), hidden=16, bottleneck=8, prototypes=K, teacher_temperature=0.07)
    plain.multi_crop(1)
    plain.load_state_dict({k: x for k, x in net.state_dict().items() if "mask" not in k and "patch_center" not in k})
    assert torch.allclose(net(v).loss, plain(v).loss, atol=1e-5)
    masking = method(local=1, unmasked=0.0, patch_weight=0.0)
    assert not torch.allclose(masking(v).loss, plain(v).loss, atol=1e-3)


def test_the_centre_of_the_patches_follows_the_mean_over_all_patches_of_both_crops(look):
    net, v = method(), views(look)
    net.before_step(Progress(0, 10, 0, 1))
    with torch.no_grad():
        expected = torch.stack([patch_logits(net, v.slot(i))[1] for i in range(2)]).mean((0, 1, 2))
    out = net(v)
    assert not net.patch_center.any()
    net.after_step(after(net, out))
    assert torch.allclose(net.patch_center, 0.1 * expected, atol=1e-6)


def test_patches_have_prototypes_of_their_own_where_they_are_asked_for_and_the_teacher_averages_them(look):
    net, v = method(patch_head="own", momentum=0.9), views(look)
    loss = net(v).loss
    with torch.no_grad():
        net.patch_prototypes.direction.add_(1)
        assert not torch.allclose(net(v).loss, loss)
        before = net.teacher_patch_prototypes.direction.clone()
        net.before_step(Progress(5, 10, 0, 1))
        net.after_step(after(net, net(v)))
    expected = before + (1 - net.keep) * (net.patch_prototypes.direction - before)
    assert torch.allclose(net.teacher_patch_prototypes.direction, expected, atol=1e-6)
    assert len([*net.still(Progress(0, 10, 0, 2))]) == 4
    assert method().patch_prototypes is None


# ------------------------------------------------------------------------------------------------------- the masks


def test_a_mask_follows_its_view_through_a_selection_and_a_shuffle_and_differs_between_views(look):
    net = method(unmasked=0.0)
    v = views(look, 4)
    masks = torch.stack([net.masks(v, [i]) for i in range(4)], 1)  # (B,4,T)
    which = torch.tensor([[3, 1], [0, 2], [2, 3], [1, 0], [3, 0], [2, 1]])
    taken = v.take(which)
    for i in range(2):
        assert torch.equal(net.masks(taken, [i]), masks[torch.arange(B), which[:, i]])
    assert torch.equal(net.masks(v, [2, 0]), torch.cat([masks[:, 2], masks[:, 0]]))
    assert len({tuple(m.tolist()) for m in masks.flatten(0, 1)}) > 2 * B


@pytest.mark.parametrize("shape", ["block", "random"])
def test_as_many_patches_are_masked_as_asked_for(look, shape):
    net, v = method(shape=shape, ratio=0.3, spread=0.2, unmasked=0.5), views(look, count=1500)
    sizes = net.masks(v, [0, 1]).sum(1).double()
    assert (sizes == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert sizes.max() <= 0.5 * T
    if shape == "random":  # floor of 16 times a uniform share between 0.1 and 0.5
        expected = np.floor(16 * (0.1 + 0.4 * (np.arange(10000) + 0.5) / 10000)).mean()
        assert sizes[sizes > 0].mean().item() == pytest.approx(expected, abs=0.15)
    where = net.masks(v, [0, 1])[sizes > 0].double().mean(0)
    assert where.min() > 0.5 * where.mean()  # no patch is left out


def test_random_masks_of_one_size_are_uniform(look):
    net = method(shape="random", ratio=0.25, spread=0.0, unmasked=0.0)
    masks = net.masks(views(look, count=2000), [0, 1]).double()
    assert (masks.sum(1) == 4).all()
    counts = masks.sum(0).numpy()
    expected = masks.sum().item() / T
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # chi squared, 15 degrees of freedom, p = 0.001


def test_a_block_mask_is_what_the_loop_of_the_code_makes_of_the_same_numbers():
    generator, rows, columns = torch.Generator().manual_seed(1), 6, 7
    u, count = torch.rand(40, ATTEMPTS, 4, generator=generator), 25 * torch.rand(40, generator=generator)
    actual = blocks(u, count, rows, columns).view(40, rows, columns)
    for numbers, high, mask in zip(u.tolist(), count.tolist(), actual, strict=True):
        expected, done, misses = np.zeros((rows, columns), bool), 0, 0
        for area, aspect, down, right in numbers:
            if done >= high or misses == 10:
                break
            misses += 1
            low = (min(rows, columns) // 3) ** 2
            target = low + (high - done - low) * area
            ratio = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * aspect)
            h, w = round(math.sqrt(max(0, target * ratio))), round(math.sqrt(max(0, target / ratio)))
            if h >= rows or w >= columns:
                continue
            top, left = math.floor(down * (rows - h + 1)), math.floor(right * (columns - w + 1))
            part = expected[top : top + h, left : left + w]
            new = (~part).sum()
            if 0 < new <= high - done:
                part[:] = True
                done, misses = done + new, 0
        assert np.array_equal(mask.numpy(), expected)
    assert actual.any()


# ---------------------------------------------------------------------------------------------- training and choosing


def test_selection_keeps_the_crop_set_of_the_highest_loss_patches_included(look):
    net, hvs = method(local=1, unmasked=0.0), HVS(local_draws=2)
    v = views(look, 4, 2)
    picks = net.candidates(4, 2)
    with torch.no_grad():
        losses = torch.stack([net(v.take(torch.tensor([pick] * B), 1)).loss for pick in picks], 1)
        q, t = hvs.embed(v, net, picks)
        scored = torch.stack([net.score(q, t, pick) for pick in picks], 1)
    assert torch.allclose(scored, losses, atol=1e-4)
    assert len(picks) == 8


def test_it_refuses_a_network_without_patches_shares_above_one_and_saved_labels():
    with pytest.raises(HardlabError, match="vit_micro"):
        IBOT(nets.Tiny(width=4))
    with pytest.raises(HardlabError, match=r"ratio=0\.9, spread=0\.2"):
        method(ratio=0.9, spread=0.2)
    with pytest.raises(HardlabError, match="labels=reused"):
        HVS(labels="reused").install(method())


@pytest.mark.slow
def test_a_short_training_lowers_the_loss_and_resumes_to_the_bit(tmp_path, monkeypatch):
    small = {"data.fraction": 0.02, "batch_size": 16, "epochs": 3, "precision": "fp32", "logs.step_every": 1}
    run = recipes.recipe("ibot-hvs", "smoke", small)
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 9)
    assert same(learned(whole), learned(parts))
    steps = run_folder.metrics(whole, "step")
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(0 < step["masked"] < 0.3 for step in steps)


def test_its_recipe_is_that_of_the_readme_at_rung_paper():
    run = recipes.recipe("ibot", "paper")
    made = train.build.method(run.with_({"backbone": {"name": "vit_micro", "options": {}}, "method.hidden": 16}))
    assert (run.optim.lr, run.optim.weight_decay_end, run.local.count) == (5e-4, 0.4, 10)
    assert made.center.shape == (8192,)
    assert made.head.prototypes.gain.requires_grad
