"""MoCo, BYOL, supervised training and SimCLR-DD against loops, closed forms and lightly's losses."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from steps import after, looked, rendered

from hardlab import build, nets, recipes
from hardlab.data.base import Pixels, Source
from hardlab.hard.double import Double
from hardlab.methods.byol import BYOL
from hardlab.methods.moco import MoCo
from hardlab.methods.simclr import SimCLR
from hardlab.methods.supervised import Supervised
from hardlab.negatives import Queue
from hardlab.types import HardlabError, Progress
from hardlab.views import PRESETS, Look

AT = Progress(0, 10, 0, 2)


def images(n=12, labels=None, size=16):
    labels = np.arange(n) % 3 if labels is None else labels
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
    source = Source(tuple("abc"), labels, [str(i) for i in range(n)])
    return Pixels("toy", "train", source, [], label_map=np.arange(3), device="cpu", size=None, pixels=pixels)


def moco(**options):
    torch.manual_seed(0)
    return MoCo(nets.Tiny(width=4), **({"dim": 8, "queue": 32, "groups": 2} | options))


def step(net, x, lr=0.1):
    out = net(rendered(x))
    out.loss.mean().backward()
    with torch.no_grad():
        for p in net.parameters():
            if p.grad is not None:
                p -= lr * p.grad
                p.grad = None
    net.after_step(after(net, out))
    return out


# ---------------------------------------------------------------------------------------------------------- MoCo


def test_moco_loss_of_each_query_equals_a_loop_over_its_key_and_the_queue():
    net = moco(temperature=0.3)
    out = net(rendered(torch.randn(6, 2, 3, 16, 16)))
    for i in range(6):
        q, k = out.q[0][i].detach().double(), out.t[1][i].double()
        top = math.exp(float(q @ k) / 0.3)
        bottom = top + sum(math.exp(float(q @ n.double()) / 0.3) for n in net.negatives.keys)
        assert out.loss[i].item() == pytest.approx(-math.log(top / bottom), abs=1e-4)
    assert set(out.q) == {0}
    assert not out.t[1].requires_grad
    assert torch.allclose(out.t[1].norm(dim=1), torch.ones(6), atol=1e-5)


@pytest.mark.parametrize(("symmetric", "total"), [(False, "mean"), (True, "mean"), (True, "sum")])
def test_moco_loss_is_lightlys_ntxent_with_a_memory_bank_of_the_same_negatives(symmetric, total):
    net = moco(temperature=0.2, symmetric=symmetric, total=total)
    theirs = NTXentLoss(temperature=0.2, memory_bank_size=(32, 8))
    theirs.memory_bank.bank = net.negatives.keys.clone()
    theirs.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    out = net(rendered(torch.randn(8, 2, 3, 16, 16)))
    wanted = [theirs.forward(out.q[a].detach(), out.t[b]) for a, b in net.pairs]  # no gradient: the bank stays
    times = len(wanted) if total == "sum" else 1
    assert out.loss.mean().item() == pytest.approx(float(sum(wanted) / len(wanted)) * times, rel=1e-5)


def test_both_directions_are_added_up_in_the_recipe_of_the_notebook_and_one_alone_cannot_be():
    assert recipes.recipe("moco-symmetric", "gpu").method.options["total"] == "sum"
    with pytest.raises(HardlabError, match="total=sum"):
        moco(total="sum")


def test_the_queue_wraps_first_in_first_out_without_being_copied():
    queue = Queue(6, 2)
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(6))
    place, expected = queue.keys.data_ptr(), list(queue.keys.clone())
    for i in range(5):
        k = F.normalize(torch.randn(4, 2), dim=1)
        queue.enqueue(k)
        for j in range(4):
            expected[(4 * i + j) % 6] = k[j]
        assert torch.equal(queue.keys, torch.stack(expected))
    assert queue.keys.data_ptr() == place
    assert int(queue.next) == 20 % 6


def test_the_keys_of_a_step_enter_the_queue_after_it_both_views_where_both_are_queries():
    for symmetric in (False, True):
        net = moco(symmetric=symmetric)
        before = net.negatives.keys.clone()
        out = net(rendered(torch.randn(8, 2, 3, 16, 16)))
        assert torch.equal(net.negatives.keys, before)
        net.after_step(after(net, out))
        keys = torch.cat([out.t[1], out.t[0]]) if symmetric else out.t[1]
        assert torch.equal(net.negatives.keys[: len(keys)], keys)
        assert torch.equal(net.negatives.keys[len(keys) :], before[len(keys) :])


def test_the_key_encoder_averages_parameters_only_and_after_the_step_is_before_the_next():
    net = moco(momentum=0.9)
    mine = [copy.deepcopy(p.data) for p in net.key_backbone.parameters()]
    x = torch.randn(3, 8, 2, 3, 16, 16)
    for i in range(3):
        # the paper's order: average first, then keys; at the first step both encoders are the same
        mine = [0.9 * m + 0.1 * p.data for m, p in zip(mine, net.backbone.parameters(), strict=True)]
        for m, p in zip(mine, net.key_backbone.parameters(), strict=True):
            assert torch.allclose(m, p, atol=1e-6)
        step(net, x[i])
    assert any(
        not torch.allclose(a, b)
        for a, b in zip(net.key_backbone.buffers(), net.backbone.buffers(), strict=True)
        if a.is_floating_point()
    )


def test_split_norm_equals_a_loop_over_its_groups_and_keeps_the_mean_of_their_statistics():
    net = nets.split_bn(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), 4)
    plain = [torch.nn.BatchNorm2d(3) for _ in range(4)]
    x = torch.randn(8, 3, 5, 5, requires_grad=True)
    y = net(x)
    for g, bn in enumerate(plain):
        assert torch.allclose(y[g::4], bn(x[g::4]), atol=1e-5)
    assert torch.allclose(net[0].running_mean, torch.stack([bn.running_mean for bn in plain]).mean(0), atol=1e-6)
    assert torch.allclose(net[0].running_var, torch.stack([bn.running_var for bn in plain]).mean(0), atol=1e-6)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with nets.running_stats_frozen(net):
        assert torch.equal(net(x), y)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    net.eval()
    alone = torch.nn.BatchNorm2d(3).eval()
    alone.load_state_dict(net[0].state_dict())
    assert torch.equal(net(x), alone(x))


def test_shuffled_keys_are_normalised_in_random_groups_and_come_back_in_order():
    net = moco(bn="shuffled")
    x = torch.randn(8, 3, 16, 16)
    torch.manual_seed(5)
    got = net.target(x, None)
    torch.manual_seed(5)
    order = torch.randperm(8)
    plain = copy.deepcopy(net.key_backbone)
    wanted = torch.empty_like(got)
    for g in range(2):  # each group through a network with ordinary norms
        rows = order[g::2]
        wanted[rows] = F.normalize(net.key_head(nets.split_bn(plain, 1)(x[rows])), dim=1)
    assert torch.allclose(got, wanted, atol=1e-5)
    split = moco(bn="split")
    assert torch.equal(split.target(x, None), split.target(x, None))


def test_moco_with_one_group_and_nothing_shuffled_is_plain_moco():
    x = torch.randn(8, 2, 3, 16, 16)
    one, plain = moco(bn="split", groups=1), moco(bn="plain")
    assert torch.allclose(one(rendered(x)).loss, plain(rendered(x)).loss, atol=1e-5)


def test_moco_counts_the_queries_whose_key_is_nearer_than_all_negatives():
    net = moco()
    q = F.normalize(torch.randn(4, 8), dim=1)
    t = q.clone()
    t[1] = -q[1]
    assert net.right(q, t).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("options", "batch", "said"),
    [
        ({"queue": 100}, 16, "nearest that is one is 96"),
        ({"queue": 4}, 16, "is 16"),
        ({"queue": 80, "symmetric": True}, 16, "is 64"),
        ({"groups": 3}, 16, "batch_size=15"),
    ],
)
def test_a_queue_or_groups_that_do_not_fit_the_batch_are_refused_with_what_would(options, batch, said):
    with pytest.raises(HardlabError, match=said):
        moco(**options).on_start(images(), batch)


@pytest.mark.parametrize("options", [{"momentum": 1.5}, {"temperature": 0.0}, {"queue": 0}, {"groups": 0}])
def test_impossible_options_of_moco_are_refused(options):
    with pytest.raises(HardlabError, match=next(iter(options))):
        moco(**options)


# ---------------------------------------------------------------------------------------------------------- BYOL


def byol(**options):
    torch.manual_seed(0)
    return BYOL(nets.Tiny(width=4), **({"dim": 8, "hidden": 16} | options))


def test_byol_loss_is_lightlys_and_its_target_takes_no_gradient():
    net = byol()
    out = net(rendered(torch.randn(6, 2, 3, 16, 16)))
    wanted = 2 + (NegativeCosineSimilarity()(out.q[0], out.t[1]) + NegativeCosineSimilarity()(out.q[1], out.t[0]))
    assert out.loss.mean().item() == pytest.approx(wanted.item(), rel=1e-5)
    assert not any(t.requires_grad for t in out.t.values())
    for i in range(6):
        p, z = F.normalize(out.q[0][i].detach(), dim=0), F.normalize(out.t[1][i], dim=0)
        r, s = F.normalize(out.q[1][i].detach(), dim=0), F.normalize(out.t[0][i], dim=0)
        assert out.loss[i].item() == pytest.approx(float(((p - z) ** 2).sum() + ((r - s) ** 2).sum()) / 2, abs=1e-5)


def test_tau_goes_along_half_a_cosine_from_its_start_to_its_end():
    net = byol(start=0.9, end=1.0)
    for done, wanted in ((0, 0.9), (5, 0.95), (10, 1.0)):
        net.before_step(Progress(done, 10, 0, 2))
        assert net.tau == pytest.approx(wanted)


@pytest.mark.parametrize("average", ["parameters", "all"])
def test_byols_target_follows_by_the_formula_its_buffers_where_asked(average):
    net = byol(start=0.9, end=0.9, average=average)
    twin = torch.nn.Sequential(net.twin, net.twin_projector)
    online = torch.nn.Sequential(net.backbone, net.projector)
    before = [p.data.clone() for p in twin.parameters()]
    out = net(rendered(torch.randn(6, 2, 3, 16, 16)))
    with torch.no_grad():
        for p in online.parameters():
            p += torch.randn_like(p)
    buffers = [b.clone() for b in twin.buffers()]
    net.after_step(after(net, out))
    for a, p, q in zip(before, online.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(q, 0.9 * a + 0.1 * p, atol=1e-6)
    for a, p, q in zip(buffers, online.buffers(), twin.buffers(), strict=True):
        if a.is_floating_point():
            assert torch.allclose(q, 0.9 * a + 0.1 * p if average == "all" else a, atol=1e-6)


def test_impossible_shares_of_byols_target_are_refused():
    with pytest.raises(HardlabError, match=r"start=0.9, end=0.5"):
        byol(start=0.9, end=0.5)


# ---------------------------------------------------------------------------------------------------- supervised


def test_supervised_loss_is_the_cross_entropy_of_the_labels_and_zero_without_one():
    net = Supervised(nets.Tiny(width=4))
    data = images()
    net.on_start(data, 4)
    index = torch.tensor([5, 0, 7, -1])
    out = net(rendered(torch.randn(4, 1, 3, 16, 16), index))
    wanted = F.cross_entropy(out.q[0][:3], data.targets[index[:3]], reduction="none")
    assert torch.allclose(out.loss[:3], wanted)
    assert out.loss[3] == 0
    assert out.q[0].shape == (4, 3)
    assert net.logs(after(net, out))["accuracy"] == float((out.q[0].argmax(1)[:3] == data.targets[index[:3]]).sum() / 4)
    assert "labels" not in net.state_dict()


def test_supervised_training_refuses_images_without_labels():
    with pytest.raises(HardlabError, match="toy: it needs one label"):
        Supervised(nets.Tiny(width=4)).on_start(images(labels=np.full(12, -1)), 4)


# ------------------------------------------------------------------------------------------------------ SimCLR-DD


def doubled(data, at, seed=0, x=False):
    torch.manual_seed(seed)
    look = Look(PRESETS["simclr_cifar"][0].but(size=16), (0.5,) * 3, (0.25,) * 3)
    hard = Double()
    hard.on_start(data, 4, None)
    first = next(data.batches(torch.arange(4)[None]))
    out = []
    for progress in at:
        hard.before_step(progress)
        v = look.views(first, 2, torch.Generator().manual_seed(1))
        out.append(looked(hard, SimCLR(nets.Tiny(width=4), dim=8), look.render(v) if x else v, look).views)
    return look, out


def test_a_doubled_step_has_twice_the_images_each_a_group_of_its_own_and_the_batch_unchanged():
    data = images()
    look, (v,) = doubled(data, [Progress(0, 6, 0, 2)])
    assert torch.equal(v.group, torch.arange(8))
    assert torch.equal(v.index[:4], torch.arange(4))
    assert torch.equal(v.raw, data.pixels[v.index])
    first = next(data.batches(torch.arange(4)[None]))
    assert torch.equal(v.params[:4], look.views(first, 2, torch.Generator().manual_seed(1)).params)
    assert SimCLR(nets.Tiny(width=4), dim=8)(look.render(v)).loss.shape == (8,)
    assert doubled(data, [Progress(0, 6, 0, 2)], x=True)[1][0].x.shape == (8, 2, 3, 16, 16)


def test_the_further_images_are_each_seen_once_an_epoch_in_an_order_that_a_resumed_run_finds_again():
    data = images()
    steps = [Progress(i, 6, i // 3, 2) for i in range(6)]
    rows = [v.index[4:] for v in doubled(data, steps)[1]]
    for epoch in (rows[:3], rows[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    assert not torch.equal(torch.cat(rows[:3]), torch.cat(rows[3:]))
    resumed = [v.index[4:] for v in doubled(data, steps[4:])[1]]
    assert all(torch.equal(a, b) for a, b in zip(rows[4:], resumed, strict=True))


def test_images_of_different_sizes_are_padded_when_they_come_together():
    a, b = (rendered(torch.ones(2, 1, 3, s, s)) for s in (4, 6))
    a, b = (v.drawn() for v in (a, b))
    both = a.append(b)
    assert both.raw.shape == (4, 3, 6, 6)
    assert both.raw[:2].sum() == 2 * 3 * 16
    assert both.group.tolist() == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------- as wholes


@pytest.mark.parametrize("name", ["moco", "moco-symmetric", "byol", "supervised", "simclr-dd"])
@pytest.mark.parametrize("rung", recipes.RUNGS)
def test_every_rung_builds(name, rung):
    run = recipes.recipe(name, rung)
    with torch.device("meta"):
        method = build.method(run)
        build.strategies(run, method)
        build.look(run)
        if isinstance(method, MoCo):
            method.on_start(None, run.batch_size)


@pytest.mark.parametrize(("kind", "lr"), [(moco, 0.05), (byol, 0.05)])
def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again(kind, lr):
    net = kind()
    base = torch.randn(16, 1, 3, 16, 16)
    x = base + 0.3 * torch.randn(16, 2, 3, 16, 16)
    losses = [float(step(net, x, lr).loss.detach().mean()) for _ in range(25)]
    assert sum(losses[-3:]) < 0.98 * sum(losses[2:5])
