"""Hard View Selection against brute force, and where it must change nothing."""

from itertools import combinations

import pytest
import torch
from steps import looked

from hardlab import nets, registry
from hardlab.hard.hvs import HVS, first_max
from hardlab.methods.simclr import SimCLR
from hardlab.methods.simsiam import SimSiam
from hardlab.types import Batch, HardlabError
from hardlab.views import COLOUR, PRESETS, Look


def method(kind):
    torch.manual_seed(0)
    return kind(nets.Tiny(width=4), dim=8)


@pytest.fixture
def look():
    return Look(PRESETS["simclr_cifar"], (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def batch():
    raw = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Batch(raw, torch.full((12, 2), 32), torch.arange(12))


def drawn(look, batch, n, seed=0):
    return look.views(batch, n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [SimSiam, SimCLR])
@pytest.mark.parametrize("statistics", ["joint", "per-view", "running"])
def test_the_chosen_pair_has_the_highest_loss_of_all_pairs_computed_one_by_one(kind, statistics, look, batch):
    net, hvs = method(kind), HVS(statistics=statistics, update_bn=False)
    if statistics == "running":  # running statistics that are not the initial ones
        net(look.render(drawn(look, batch, 2, seed=9)))
    v = drawn(look, batch, 4)
    now = looked(hvs, net, v, look)
    chosen, seen = now.views, now.seen
    x = look.render(v).x
    with torch.no_grad(), nets.running_stats_frozen(net):
        if statistics == "joint":
            q, t = net.both(torch.cat(list(x.unbind(1))), None)
            q, t = q.chunk(4), t.chunk(4)
        else:
            net.train(statistics == "per-view")
            q, t = zip(*[net.both(x[:, i], None) for i in range(4)], strict=True)
        net.train()
        for i in range(12):
            losses = {}
            for n, m in combinations(range(4), 2):
                forth, back = net.loss(q[n], t[m]), net.loss(q[m], t[n])
                losses[n, m] = float((forth[i] + back[i]) / 2)
            worst = max(losses, key=losses.get)
            assert tuple(seen.pairs[seen.best[i]].tolist()) == worst
            assert torch.allclose(seen.loss[i], torch.tensor(list(losses.values())), atol=1e-5)
            assert torch.equal(chosen.x[i], x[i, list(worst)])
            assert torch.equal(chosen.params[i], v.params[i, list(worst)])


@pytest.mark.parametrize("kind", [SimSiam, SimCLR])
def test_with_two_views_the_step_is_the_baselines_bit_for_bit(kind, look, batch):
    states = []
    for hard in (None, HVS(draws=2, update_bn=False)):
        net = method(kind)
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(3):
            v = drawn(look, batch, 2, seed=step)
            v = look.render(looked(hard, net, v, look).views if hard else v)
            opt.zero_grad()
            net(v).loss.mean().backward()
            opt.step()
        states.append(net.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_selection_moves_running_statistics_only_when_asked_to(look, batch):
    for update in (True, False):
        net = method(SimSiam)
        before = {k: b.clone() for k, b in net.named_buffers()}
        looked(HVS(update_bn=update), net, drawn(look, batch, 4), look)
        moved = any(not torch.equal(before[k], b) for k, b in net.named_buffers())
        assert moved is update
        assert net.training


def test_easy_selection_takes_the_lowest_loss(look, batch):
    net, hvs = method(SimSiam), HVS(pick="easiest", update_bn=False)
    seen = looked(hvs, net, drawn(look, batch, 4), look).seen
    assert torch.equal(seen.loss.gather(1, seen.best[:, None])[:, 0], seen.loss.amin(1))


def test_static_colour_scores_all_views_of_an_image_alike_and_recolours_the_chosen_crops(look, batch):
    hvs = HVS(colour="static")
    v = drawn(look, batch, 4)
    now = looked(hvs, method(SimSiam), v, look)
    chosen, seen = now.views, now.seen
    assert (seen.params[..., COLOUR] == seen.params[:, :1, COLOUR]).all()
    pairs = seen.pairs[seen.best]
    rows = torch.arange(12)[:, None]
    geometry = slice(0, COLOUR.start)
    assert torch.equal(chosen.params[..., geometry], v.params[rows, pairs][..., geometry])
    assert (chosen.params[:, 0, COLOUR] != chosen.params[:, 1, COLOUR]).any(1).float().mean() > 0.5
    assert torch.equal(chosen.x, look.apply(chosen.raw, chosen.params))


def test_a_smaller_probe_still_trains_on_full_size_views(look, batch):
    hvs = HVS(probe_size=16, probe_precision="bf16")
    v = drawn(look, batch, 4)
    chosen = looked(hvs, method(SimCLR), v, look).views
    assert chosen.x.shape == (12, 2, 3, 32, 32)
    assert torch.equal(chosen.x, look.apply(v.raw, chosen.params))


def test_ties_keep_the_earlier_pair_and_a_nan_is_never_hidden():
    loss = torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0], [0.0, torch.nan, 9.0]])
    assert first_max(loss).tolist() == [1, 0, 1]


def test_impossible_options_are_refused_in_one_sentence():
    with pytest.raises(HardlabError, match="draws=1"):
        HVS(draws=1)
    with pytest.raises(HardlabError, match="Did you mean 'draws'"):
        registry.build("strategy", "hvs", {"draw": 4})
    with pytest.raises(HardlabError, match="pick"):
        registry.build("strategy", "hvs", {"pick": "hard"})


@pytest.mark.parametrize("colour", ["per-view", "static"])
def test_the_pixels_that_are_trained_on_do_not_depend_on_the_networks_precision(colour, look, batch):
    hvs = HVS(colour=colour, probe_precision="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        chosen = looked(hvs, method(SimSiam), drawn(look, batch, 4), look).views
    assert chosen.x.dtype == torch.float32
    assert torch.equal(chosen.x, look.apply(chosen.raw, chosen.params))
