"""MoCo against loops, closed forms and lightly's losses."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from steps import after, falls, rendered, sgd_step
from toy import images

from hardlab import nets, recipes
from hardlab.methods.moco import MoCo
from hardlab.types import HardlabError, Progress

AT = Progress(0, 10, 0, 2)


def moco(**options):
    torch.manual_seed(0)
    return MoCo(nets.Tiny(width=4), **({"dim": 8, "queue": 32, "groups": 2} | options))


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
    expected = [theirs.forward(out.q[a].detach(), out.t[b]) for a, b in net.pairs]  # no gradient: the bank stays
    times = len(expected) if total == "sum" else 1
    assert out.loss.mean().item() == pytest.approx(float(sum(expected) / len(expected)) * times, rel=1e-5)


def test_both_directions_are_added_up_in_the_recipe_of_the_notebook_and_one_alone_cannot_be():
    assert recipes.recipe("moco-symmetric", "gpu").method.options["total"] == "sum"
    with pytest.raises(HardlabError, match="total=sum"):
        moco(total="sum")


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
    averages = [copy.deepcopy(p.data) for p in net.key_backbone.parameters()]
    x = torch.randn(3, 8, 2, 3, 16, 16)
    for i in range(3):
        # the paper's order: average first, then keys; at the first step both encoders are the same
        averages = [0.9 * m + 0.1 * p.data for m, p in zip(averages, net.backbone.parameters(), strict=True)]
        for m, p in zip(averages, net.key_backbone.parameters(), strict=True):
            assert torch.allclose(m, p, atol=1e-6)
        sgd_step(net, x[i])
    assert any(
        not torch.allclose(a, b)
        for a, b in zip(net.key_backbone.buffers(), net.backbone.buffers(), strict=True)
        if a.is_floating_point()
    )


def test_shuffled_keys_are_normalised_in_random_groups_and_come_back_in_order():
    net = moco(bn="shuffled")
    x = torch.randn(8, 3, 16, 16)
    torch.manual_seed(5)
    actual = net.target(x, None)
    torch.manual_seed(5)
    order = torch.randperm(8)
    plain = copy.deepcopy(net.key_backbone)
    expected = torch.empty_like(actual)
    for g in range(2):  # each group through a network with ordinary norms
        rows = order[g::2]
        expected[rows] = F.normalize(net.key_head(nets.split_bn(plain, 1)(x[rows])), dim=1)
    assert torch.allclose(actual, expected, atol=1e-5)
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
    ("options", "batch", "message"),
    [
        ({"queue": 100}, 16, "the nearest multiple is 96"),
        ({"queue": 4}, 16, "is 16"),
        ({"queue": 80, "symmetric": True}, 16, "is 64"),
        ({"groups": 3}, 16, "batch_size=15"),
    ],
)
def test_a_queue_or_groups_that_do_not_fit_the_batch_are_refused_with_what_would(options, batch, message):
    with pytest.raises(HardlabError, match=message):
        moco(**options).on_start(images(), batch)


@pytest.mark.parametrize("options", [{"momentum": 1.5}, {"temperature": 0.0}, {"queue": 0}, {"groups": 0}])
def test_impossible_options_of_moco_are_refused(options):
    with pytest.raises(HardlabError, match=next(iter(options))):
        moco(**options)


def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again():
    falls(moco())
