"""HEXA's adversarial and cut-mixed views against loops, autograd and simulation, and where they must change nothing."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch
from resuming import learned, rows, same, whole_and_parts
from small_runs import small_run
from steps import after, forward

from hardlab import build, nets, recipes, registry
from hardlab.hard.adversarial import Adversarial
from hardlab.hard.cutmix import CutMix, boxes
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import PRESETS, Look

B = 16
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
OPTIONS = {
    "moco": {"queue": 64, "dim": 8, "groups": 2, "temperature": 0.2},
    "deepcluster": {"prototypes": 5, "hidden": 16, "dim": 8, "heads": 2},
    "simclr": {"dim": 8},
    "simsiam": {"dim": 16, "hidden": 4, "layers": 2},
    "dino": {"hidden": 16, "bottleneck": 8, "prototypes": 12},
}


def method(name, local=0):
    torch.manual_seed(0)
    made = registry.build("method", name, OPTIONS[name], registry.build("backbone", "tiny", {"width": 4}))
    made.multi_crop(local)
    made.on_start(range(64), B)
    if name == "deepcluster":
        made.centroids.copy_(torch.nn.functional.normalize(torch.randn_like(made.centroids), dim=2))
        made.assigned.copy_(torch.randint(0, 5, made.assigned.shape))
    return made


def look():
    return Look(PRESETS["moco_cifar"], MEAN, STD, local=[PRESETS["moco_cifar"][0].but(size=16)])


def views(local=0, seed=0):
    raw = torch.randint(0, 256, (B, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    batch = Batch(raw, torch.full((B, 2), 32), torch.arange(B))
    return look().render(look().views(batch, 2, torch.Generator().manual_seed(seed), local))


def taken(hard, net, out):
    """The step that gave ``out``, after the hook in which ``hard`` offers its views."""
    now = after(net, out, look())
    hard.views(now)
    return now


def ready(net, **options):
    """An attack that is installed."""
    hard = Adversarial(**options)
    hard.install(net)
    return hard


def buffers(net, aux):
    return {k: v.clone() for k, v in net.named_buffers() if (".aux." in k) is aux}


# ------------------------------------------------------------------------------------------------- the second norms


def test_a_second_set_of_norms_leaves_every_key_and_every_number_of_the_first_as_it_was():
    net = method("simclr")
    before, x = {k: v.clone() for k, v in net.state_dict().items()}, views().slot(0)
    wanted = net.query(x)
    net.load_state_dict(before)
    nets.give_auxiliary(net)
    nets.give_auxiliary(net)  # a second strategy that asks for it adds nothing
    now = net.state_dict()
    assert set(before) < set(now)
    assert all(".aux." in k and k.count(".aux.") == 1 for k in set(now) - set(before))
    assert torch.equal(net.query(x), wanted)
    assert sum(".aux." in k for k in now) == sum("running" in k or "tracked" in k for k in before) + sum(
        k.rpartition(".")[0] + ".running_mean" in before and k.endswith(("weight", "bias")) for k in before
    )


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


def test_the_route_through_the_second_set_ends_with_its_block_even_after_an_error():
    net = method("simclr")
    nets.give_auxiliary(net)
    aux = buffers(net, aux=True)
    with contextlib.suppress(ZeroDivisionError), nets.auxiliary(net):
        raise ZeroDivisionError
    net.query(views().slot(0))
    assert same(aux, buffers(net, aux=True))


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
        wanted = (grey[a] + 2 * g.sign()).clamp(0, 255)
        got = (made.slot(a) * unit + mean) * 255
        clear = g.abs() > 1e-5 * g.abs().max()  # the sign of a rounding error is anybody's
        assert torch.allclose(got[clear], wanted[clear], atol=1e-2)
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
    wanted = torch.tensor([(anchors[i] + anchors[i + B]) / 2 for i in range(B)])
    assert torch.allclose(term, wanted, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ the mixtures


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
    got = boxes(share, place, 32, "clipped")
    assert all(torch.equal(got[i], pasted(float(share[i]), place[i].tolist(), 32)) for i in range(50))


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
    wanted = torch.zeros(B)
    for a, b in net.pairs:
        own, theirs = net.loss(q[a], out.t[b]), net.loss(q[a], out.t[b][other])
        wanted += (lam[a] * own + (1 - lam[a]) * theirs) / len(net.pairs)
    assert torch.allclose(term, wanted, atol=1e-4)
    assert float(now.numbers["cutmix.lambda"]) == pytest.approx(lam[0].mean().item(), abs=1e-5)


def test_soft_labels_are_the_cross_entropy_of_one_softmax_over_both_keys_and_the_queue():
    net = method("moco")
    hard = CutMix(labels="soft")
    hard.install(net)
    out = net(views())
    lam, same_key = torch.rand(B), torch.zeros(B, dtype=torch.bool)
    q, own, theirs = out.q[0].detach(), out.t[1], out.t[1].roll(1, 0)
    got = hard._soft(net, q, own, theirs, lam, same_key)
    for i in range(B):
        logits = torch.cat([torch.stack([own[i], theirs[i]]), net.negatives.keys]) @ q[i] / 0.2
        soft = torch.zeros(len(logits))
        soft[:2] = torch.tensor([lam[i], 1 - lam[i]])
        assert got[i].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, soft).item(), abs=1e-4)
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


def test_a_snapshot_shows_the_views_of_the_last_step_as_the_network_saw_them():
    net = method("moco")
    attack, mix = ready(net), CutMix()
    mix.install(net)
    assert attack.snapshot(net, None, look()) == mix.snapshot(net, None, look()) == {}
    v = views()
    out = net(v)
    now = taken(attack, net, out)
    attack.terms(now)
    mix.terms(now)
    shown = {**attack.snapshot(net, None, look()), **mix.snapshot(net, None, look())}
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


def test_every_hexa_recipe_can_be_built_at_every_rung_and_differs_from_its_base_in_the_strategy_alone():
    bases = {n: n.removeprefix("hexa-").removeprefix("plus-") for n in recipes.RECIPES if n.startswith("hexa")}
    bases = {n: base.partition("-adv")[0].partition("-cmx")[0] for n, base in bases.items()} | {"clae": "ppcl-simclr"}
    for name, base in bases.items():
        for rung in recipes.RUNGS:
            run = recipes.recipe(name, rung)
            if rung in ("smoke", "paper"):
                build.check(run)
            here, there = run.model_dump(), recipes.recipe(base, rung).model_dump()
            assert {k for k in here if here[k] != there[k]} == {"recipe", "hard"}
    build.check(recipes.recipe("clae-code"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hexa-moco-adv-cmx-cmxa", "hexa-deepcluster-adv-cmxa", "clae"])
def test_a_run_that_was_stopped_ends_bitwise_like_one_that_was_not(name, tmp_path, monkeypatch):
    run = small_run(name, **{"hard.adversarial.start": "random"})
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 2)  # in the middle of the first epoch
    assert same(learned(whole), learned(parts))
    logged = rows(whole)
    assert logged == rows(parts)
    assert all(math.isfinite(logged[0][f"adversarial.{number}"]) for number in ("top1", "max_delta", "bn_gap"))
