"""HEXA's adversarial views against loops and autograd, and where its strategies must change nothing."""

import contextlib
import math

import pytest
import torch
from hexa_steps import MEAN, STD, B, buffers, look, method, ready, taken, views
from resuming import learned, rows, same, whole_and_parts
from small_runs import small_run
from steps import after, forward

from hardlab import build, nets, recipes
from hardlab.hard.adversarial import Adversarial
from hardlab.hard.cutmix import CutMix
from hardlab.types import HardlabError, Progress

# ------------------------------------------------------------------------------------------------- the second norms


def test_clean_passes_leave_the_second_set_alone_and_adversarial_ones_the_first():
    net = method("simclr")
    nets.give_auxiliary(net)
    main, aux = buffers(net, aux=False), buffers(net, aux=True)
    with nets.auxiliary(net), nets.auxiliary(net):  # nested, as when a strategy calls another
        net.query(views().slot(0))
    assert same(main, buffers(net, aux=False))
    assert not same(aux, buffers(net, aux=True))
    aux = buffers(net, aux=True)
    net(views())
    net.eval().query(views().slot(0))
    assert same(aux, buffers(net, aux=True))
    assert not same(main, buffers(net, aux=False))


def test_momentum_networks_keep_one_set_and_clae_doubles_the_norms_of_images_only():
    net = method("moco")
    Adversarial().install(net)
    assert not any(".aux." in k for k in net.key_backbone.state_dict())
    net.after_step(after(net, net(views())))
    net = method("simclr")
    Adversarial(against="clean", aux_of="2d").install(net)
    assert any(".aux." in k for k in net.backbone.state_dict())
    assert not any(".aux." in k for k in net.projector.state_dict())


# ------------------------------------------------------------------------------------------------------ the attack


@pytest.mark.parametrize("bn", ["aux", "main"])
@pytest.mark.parametrize("name", ["moco", "deepcluster"])
def test_one_step_is_the_sign_of_the_gradient_that_autograd_finds_in_pixel_space(name, bn):
    net = method(name)
    hard = ready(net, epsilon=3, eta=2, attack_bn=bn)
    v = views()
    out = net(v)
    made = hard.perturb(taken(hard, net, out))
    unit = torch.tensor(STD)[:, None, None]
    mean = torch.tensor(MEAN)[:, None, None]
    slots = sorted({a for a, _ in net.pairs})
    grey = {a: ((v.slot(a) * unit + mean) * 255).requires_grad_() for a in slots}  # 0-255
    x = {a: (g / 255 - mean) / unit for a, g in grey.items()}
    with nets.running_stats_frozen(net), nets.auxiliary(net) if bn == "aux" else contextlib.nullcontext():
        if net.joint:
            q = dict(zip(slots, net.query(torch.cat(list(x.values()))).chunk(len(slots)), strict=True))
        else:
            q = {a: net.query(x[a]) for a in slots}
    loss = sum(net.loss(q[a], out.t[b].detach()) for a, b in net.pairs).sum()
    for a, g in zip(slots, torch.autograd.grad(loss, list(grey.values())), strict=True):
        expected = (grey[a] + 2 * g.sign()).clamp(0, 255)
        actual = (made.slot(a) * unit + mean) * 255
        clear = g.abs() > 1e-5 * g.abs().max()  # the sign of a rounding error is anybody's
        assert torch.allclose(actual[clear], expected[clear], atol=1e-2)
        assert clear.float().mean() > 0.9


@pytest.mark.parametrize("options", [{}, {"steps": 3, "epsilon": 2}, {"start": "random"}, {"norm": "l2", "epsilon": 9}])
def test_a_perturbation_stays_in_its_ball_and_in_the_pixels_that_exist(options):
    net = method("deepcluster", local=2)
    hard = ready(net, **options)
    v = views(local=2)
    made = hard.perturb(taken(hard, net, net(v)))
    for a in range(4):
        delta = (made.slot(a) - v.slot(a)) * torch.tensor(STD)[:, None, None] * 255
        size = delta.flatten(1).norm(dim=1) if hard.norm == "l2" else delta.abs().flatten(1).amax(1)
        assert (size <= hard.epsilon + 1e-2).all()
        assert (size > 0).all()
        pixels = made.slot(a) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        assert pixels.min() > -1e-5
        assert pixels.max() < 1 + 1e-5


@pytest.mark.parametrize("name", ["moco", "deepcluster", "simclr", "simsiam", "dino"])
def test_the_attack_raises_the_loss_of_most_images_and_moves_no_statistics(name):
    local = 2 if name in ("deepcluster", "dino") else 0
    net = method(name, local)
    hard = ready(net)
    v = views(local)
    out = net(v)
    before = {k: b.clone() for k, b in net.state_dict().items()}
    made = hard.perturb(taken(hard, net, out))
    assert all(torch.equal(before[k], b) for k, b in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    with nets.running_stats_frozen(net), nets.auxiliary(net), torch.no_grad():
        losses = [net.score(net.embed(x, {a for a, _ in net.pairs}, ())[0], out.t) for x in (v, made)]
    assert (losses[1] >= losses[0]).float().mean() > 0.7
    assert losses[1].mean() > losses[0].mean()


def test_what_the_attack_begins_with_is_judged_by_the_norms_of_the_attacked_views():
    net = method("moco")
    hard = ready(net)
    now = taken(hard, net, net(views()))
    hard.terms(now)
    with nets.running_stats_frozen(net), nets.auxiliary(net), torch.no_grad():
        q = net.query(now.out.views.slot(0))
    found = [bool(q[i] @ now.out.t[1][i] > (net.negatives.keys @ q[i]).max()) for i in range(B)]
    assert float(now.numbers["adversarial.top1_start"]) == pytest.approx(sum(found) / B)
    for other in ({"start": "random"}, {"aim": "towards"}, {"attack_bn": "main"}):
        net = method("moco")
        hard = ready(net, **other)
        now = taken(hard, net, net(views()))
        hard.terms(now)
        assert "adversarial.top1_start" not in now.numbers and "adversarial.top1" in now.numbers


def test_an_attack_towards_another_label_lowers_the_loss_with_it():
    net = method("deepcluster")
    hard = ready(net, aim="towards", epsilon=8, eta=8)
    out = net(views())
    torch.manual_seed(5)
    other = torch.randperm(B)
    torch.manual_seed(5)
    made = hard.perturb(taken(hard, net, out))
    with nets.running_stats_frozen(net), nets.auxiliary(net), torch.no_grad():
        losses = [net.loss(net.query(x.slot(0)), out.t[0][other]).mean() for x in (out.views, made)]
    assert losses[1] < losses[0]


def test_the_adversarial_term_holds_the_attacked_predictions_against_the_clean_labels():
    net = method("moco")
    hard = ready(net)
    out = net(views())
    now = taken(hard, net, out)
    term = hard.terms(now)["adversarial"].detach()
    made = now.made["adversarial"]()  # the one that was trained on
    with nets.auxiliary(net):
        q = net.query(made.slot(0)).detach()
    for i in range(B):
        logits = torch.cat([(q[i] @ out.t[1][i])[None], net.negatives.keys @ q[i]]) / 0.2
        assert term[i].item() == pytest.approx(float(torch.logsumexp(logits, 0) - logits[0]), abs=1e-4)


def test_clae_compares_the_clean_view_with_its_own_perturbation_in_both_directions():
    net = method("simclr")
    hard = ready(net, against="clean", aux_of="2d", epsilon=3.825, eta=3.825)
    v = views()
    out = net(v)
    now = taken(hard, net, out)
    term = hard.terms(now)["adversarial"]
    made = now.made["adversarial"]()
    assert torch.equal(made.slot(1), v.slot(1))  # only the first view is attacked
    with nets.auxiliary(net):
        z = torch.cat([out.q[0], net.query(made.slot(0))]).detach()
    anchors = []
    for i in range(2 * B):
        j = (i + B) % (2 * B)
        logits = torch.stack([z[i] @ z[a] / 0.1 for a in range(2 * B) if a != i])
        anchors.append(float(torch.logsumexp(logits, 0) - z[i] @ z[j] / 0.1))
    expected = torch.tensor([(anchors[i] + anchors[i + B]) / 2 for i in range(B)])
    assert torch.allclose(term, expected, atol=1e-4)


def test_a_snapshot_shows_the_views_of_the_last_step_as_the_network_saw_them():
    net = method("moco")
    attack, mix = ready(net), CutMix()
    mix.install(net)
    assert attack.snapshot(None, look()) == mix.snapshot(None, look()) == {}
    v = views()
    out = net(v)
    now = taken(attack, net, out)
    attack.terms(now)
    mix.terms(now)
    shown = {**attack.snapshot(None, look()), **mix.snapshot(None, look())}
    mean, std = (torch.tensor(c)[:, None, None] for c in (MEAN, STD))
    assert torch.allclose(shown["clean"], v.slot(0)[:8] * std + mean, atol=1e-6)
    delta = (shown["adversarial"] - shown["clean"]) * 255
    assert 0.9 < delta.abs().max() < 1.1, "one grey level"
    assert torch.allclose(shown["noise"] - 0.5, delta / (2 * delta.abs().max()), atol=1e-5)
    own = (shown["mixed"] == shown["clean"]).all(1).float().mean()
    assert own == pytest.approx(float(now.numbers["cutmix.lambda"]), abs=0.05)
    assert all(x.shape == (8, 3, 32, 32) and x.min() >= 0 and x.max() <= 1 for x in shown.values())


# ------------------------------------------------------------------------------------------------------ in a run


@pytest.mark.parametrize("name", ["moco", "deepcluster", "simclr"])
def test_strategies_of_weight_zero_are_the_base_method_bit_for_bit(name):
    states = []
    for hards in ([], [Adversarial(weight=0), CutMix(weight=0, bn="aux", source="both")]):
        net = method(name)
        for h in hards:
            h.install(net)
        opt = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        torch.manual_seed(1)
        for step in range(3):
            now = forward(net, views(seed=step), *hards, at=Progress(step, 3, 0, 1))
            opt.zero_grad()
            sum(t.mean() for t in now.terms.values()).backward()
            opt.step()
            net.after_step(now)
        states.append(net.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_impossible_options_and_methods_are_refused_in_one_sentence():
    for options, words in (
        ({"epsilon": -1}, "epsilon=-1"),
        ({"steps": 0}, "steps=0"),
        ({"aux_momentum": 0}, "aux_momentum=0"),
        ({"against": "clean", "aim": "towards"}, "aim=towards"),
    ):
        with pytest.raises(HardlabError, match=words):
            Adversarial(**options)
    with pytest.raises(HardlabError, match="alpha=0"):
        CutMix(alpha=0)
    with pytest.raises(HardlabError, match="weight=-1"):
        CutMix(weight=-1)
    for name, hard, words in (
        ("moco", {"name": "adversarial", "options": {"against": "clean"}}, "It goes with simclr."),
        ("deepcluster", {"name": "cutmix", "options": {"labels": "soft"}}, "It goes with moco."),
        ("moco", {"name": "cutmix", "options": {"source": "adversarial"}}, "name adversarial before cutmix"),
    ):
        with pytest.raises(HardlabError, match=words):
            build.check(recipes.recipe(name, "smoke", {"hard": [hard]}))


def test_every_hexa_recipe_differs_from_its_base_in_the_strategy_alone():
    bases = {n: n.removeprefix("hexa-").removeprefix("plus-") for n in recipes.RECIPES if n.startswith("hexa")}
    bases = {n: base.partition("-adv")[0].partition("-cmx")[0] for n, base in bases.items()} | {"clae": "ppcl-simclr"}
    for name, base in bases.items():
        for rung in recipes.RUNGS:
            run = recipes.recipe(name, rung)
            here, there = run.model_dump(), recipes.recipe(base, rung).model_dump()
            assert {k for k in here if here[k] != there[k]} == {"recipe", "hard"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hexa-moco-adv-cmx-cmxa", "hexa-deepcluster-adv-cmxa", "clae"])
def test_a_run_that_was_stopped_ends_bitwise_like_one_that_was_not(name, tmp_path, monkeypatch):
    run = small_run(name, **{"hard.adversarial.start": "random"})
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 2)  # in the middle of the first epoch
    assert same(learned(whole), learned(parts))
    logged = rows(whole)
    assert logged == rows(parts)
    assert all(math.isfinite(logged[0][f"adversarial.{number}"]) for number in ("top1", "max_delta", "bn_gap"))
