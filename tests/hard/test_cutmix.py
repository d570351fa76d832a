"""CutMix of views against CutMix's code, loops and simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hexa_steps import B, buffers, method, ready, taken, views
from resuming import same

from hardlab.hard.cutmix import CutMix, boxes


def pasted(share, place, size):
    """CutMix's ``rand_bbox``, with its draws given."""
    cut, (row, column) = int(size * math.sqrt(1 - share)), (int(p * size) for p in place)
    rows = max(0, row - cut // 2), min(size, row + cut // 2)
    columns = max(0, column - cut // 2), min(size, column + cut // 2)
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def test_a_clipped_box_is_the_one_of_cutmixs_code():
    share, place = torch.rand(50), torch.rand(50, 2)
    actual = boxes(share, place, 32, "clipped")
    assert all(torch.equal(actual[i], pasted(float(share[i]), place[i].tolist(), 32)) for i in range(50))


def test_the_share_of_own_pixels_has_the_moments_of_beta_with_whole_boxes_and_is_larger_with_clipped_ones():
    draws = torch.distributions.Beta(5.0, 3.0).sample((4000,))
    assert draws.mean().item() == pytest.approx(0.625, abs=0.01)
    assert draws.std().item() == pytest.approx(0.161, abs=0.01)
    place = torch.rand(4000, 2)
    inside = 1 - boxes(draws, place, 32, "inside").float().mean((1, 2))
    assert inside.mean().item() == pytest.approx(0.625, abs=0.015)
    assert inside.std().item() == pytest.approx(0.161, abs=0.01)
    clipped = 1 - boxes(draws, place, 32, "clipped").float().mean((1, 2))
    assert clipped.mean().item() == pytest.approx(0.76, abs=0.015)
    assert clipped.std().item() == pytest.approx(0.12, abs=0.01)


def drawn(hard, seed=7):
    """The draws of a step of CutMix, in its order."""
    torch.manual_seed(seed)
    n = B if hard.per == "sample" else 1
    share, place = torch.distributions.Beta(hard.alpha, hard.beta).sample((n,)), torch.rand(n, 2)
    other = torch.randperm(B)
    torch.manual_seed(seed)
    return share.expand(B), place.expand(B, 2), other


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize(("name", "local"), [("moco", 0), ("deepcluster", 2), ("simsiam", 0)])
def test_the_mixed_loss_is_the_counted_share_of_each_label_in_a_loop(name, local, per):
    net = method(name, local)
    hard = CutMix(per=per)
    hard.install(net)
    v = views(local)
    out = net(v)
    share, place, other = drawn(hard)
    frozen = {k: b.clone() for k, b in net.state_dict().items()}
    now = taken(hard, net, out)
    term = hard.terms(now)["cutmix"]
    net.load_state_dict(frozen)
    lam, mixed = {}, {}
    for a in {a for a, _ in net.pairs}:
        x = v.slot(a).clone()
        masks = [pasted(float(share[i]), place[i].tolist(), x.shape[-1]) for i in range(B)]
        for i in range(B):
            x[i][:, masks[i]] = v.slot(a)[other[i]][:, masks[i]]
        mixed[a] = x
        lam[a] = torch.tensor([1 - int(m.sum()) / m.numel() for m in masks])
    large, small = torch.stack([mixed.get(a, v.slot(a)) for a in range(2)], 1), [mixed[2 + i] for i in range(local)]
    q = net.embed(replace(v, x=large, local=tuple(small)), lam, ())[0]
    expected = torch.zeros(B)
    for a, b in net.pairs:
        own, theirs = net.loss(q[a], out.t[b]), net.loss(q[a], out.t[b][other])
        expected += (lam[a] * own + (1 - lam[a]) * theirs) / len(net.pairs)
    assert torch.allclose(term, expected, atol=1e-4)
    assert float(now.numbers["cutmix.lambda"]) == pytest.approx(lam[0].mean().item(), abs=1e-5)


def test_soft_labels_are_the_cross_entropy_of_one_softmax_over_both_keys_and_the_queue():
    net = method("moco")
    hard = CutMix(labels="soft")
    hard.install(net)
    out = net(views())
    lam, same_key = torch.rand(B), torch.zeros(B, dtype=torch.bool)
    q, own, theirs = out.q[0].detach(), out.t[1], out.t[1].roll(1, 0)
    actual = hard._soft(net, q, own, theirs, lam, same_key)
    for i in range(B):
        logits = torch.cat([torch.stack([own[i], theirs[i]]), net.negatives.keys]) @ q[i] / 0.2
        soft = torch.zeros(len(logits))
        soft[:2] = torch.tensor([lam[i], 1 - lam[i]])
        assert actual[i].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, soft).item(), abs=1e-4)
    alone = hard._soft(net, q, own, own, lam, ~same_key)
    assert torch.allclose(alone, net.loss(q, own), atol=1e-4)


def test_mixtures_of_adversarial_views_go_through_the_second_norms_and_reuse_the_attack():
    net = method("moco")
    attack, mix = ready(net), CutMix(source="both")
    mix.install(net)
    out = net(views())
    now = taken(attack, net, out)
    made = now.made["adversarial"]()
    main = buffers(net, aux=False)
    terms = CutMix(source="adversarial").terms(now)
    assert list(terms) == ["cutmix_adversarial"]
    assert same(main, buffers(net, aux=False))
    assert now.made["adversarial"]() is made
    assert set(mix.terms(now)) == {"cutmix", "cutmix_adversarial"}
    assert not same(main, buffers(net, aux=False))
