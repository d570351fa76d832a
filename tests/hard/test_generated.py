"""PPCL: its loss, its mixed batch, its players, and that a parent is trained once for all arms."""

import math

import numpy as np
import pytest
import torch
from resuming import learned, rows, same, stopping_at
from small_runs import small_run
from steps import forward, looked
from torch import nn

from hardlab import build, losses, meters, nets, recipes, run_folder, stopping, train
from hardlab.hard.generated import Generated
from hardlab.methods.gan import GAN
from hardlab.methods.simclr import SimCLR
from hardlab.methods.simsiam import SimSiam
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import PRESETS, Look

LOOK = Look(PRESETS["ppcl"], (0.5,) * 3, (0.25,) * 3)
AT = Progress(0, 9, 0, 1)
ARMS = ("ppcl-gan", "ppcl-hard", "ppcl-pos", "ppcl")


def unit(n, d):
    return nn.functional.normalize(torch.randn(n, d, dtype=torch.double), dim=1)


def strategy(**options):
    torch.manual_seed(0)
    return Generated(**({"width": 2, "latent": 8} | options))


def learner(kind=SimCLR):
    torch.manual_seed(0)
    return kind(nets.Tiny(width=4), dim=8)


def batch(n=6, seed=0):
    raw = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Batch(raw, torch.full((n, 2), 32), torch.arange(n))


def step(hard, method, n=6):
    """One mixed batch through the learner."""
    hard.install(method)
    return forward(method, LOOK.views(batch(n), 2), hard, look=LOOK)


def quiet(run, path):
    return train.train(run, path, device="cpu", say=lambda line: None)


# ------------------------------------------------------------------------------------------------------------ the loss


def test_the_learners_loss_takes_rows_of_one_group_as_positives_in_both_views():
    net = learner()
    za, zb, group = unit(6, 8).float(), unit(6, 8).float(), torch.tensor([0, 1, 2, 2, 3, 3])
    actual = net.score({0: za, 1: zb}, {0: za, 1: zb}, group=group)
    each = losses.sup_con(torch.cat([za, zb]), group.repeat(2), net.temperature)
    assert torch.allclose(actual, (each[:6] + each[6:]) / 2, atol=1e-6)
    order = torch.randperm(6)
    again = net.score({0: za[order], 1: zb[order]}, {0: za[order], 1: zb[order]}, group=group[order])
    assert torch.allclose(actual[order], again, atol=1e-6)


# ----------------------------------------------------------------------------------------------------- the mixed batch


def test_real_images_have_one_positive_and_pairs_of_generated_ones_three():
    hard = strategy()
    now = step(hard, learner(), 6)
    out = now.out
    v = out.views
    assert v.index.tolist() == [0, 1, 2, 3, 4, 5] + [-1] * 6
    assert v.params.shape[:2] == (12, 2)  # 2N raw images, 4N views
    both = v.group.repeat(2)
    positives = (both[:, None] == both).sum(1) - 1
    assert positives.tolist() == ([1] * 6 + [3] * 6) * 2
    assert now.kept["generated"][1].shape == (6, 3, 32, 32)
    assert out.loss.shape == (12,)


def test_each_generated_image_stands_alone_where_positives_are_views():
    hard = strategy(positives="view", count=4)
    v = step(hard, learner(), 6).out.views
    assert len(v.group) == len(v.group.unique()) == 10


def test_a_pair_is_the_generators_image_and_its_averages_of_the_same_latent():
    hard = strategy(count=4)
    with torch.no_grad():
        for p in hard.generator.parameters():
            p.add_(torch.randn_like(p) * 0.01)
    net = learner()
    torch.manual_seed(7)
    v = looked(hard, net, LOOK.views(batch(), 2, torch.Generator().manual_seed(1)), LOOK).views
    torch.manual_seed(7)
    z = hard.generator.sample(2)
    with torch.no_grad(), nets.running_stats_frozen(hard.generator):
        own, twin = hard.generator(z), hard.averaged(z)
    expected = torch.stack([own[0], twin[0], own[1], twin[1]])
    assert torch.allclose(v.raw[6:], (expected + 1) / 2, atol=1e-6)
    assert torch.allclose(v.raw[:6], batch().raw / 255)
    assert not torch.allclose(own, twin)


def test_making_images_moves_no_state():
    hard = strategy()
    before = {k: x.clone() for k, x in hard.state_dict().items()}
    step(hard, learner())
    assert all(torch.equal(before[k], x) for k, x in hard.state_dict().items())


def test_images_of_another_size_than_the_gans_are_padded_and_keep_their_own_size():
    raw = torch.randint(0, 256, (3, 3, 40, 36), dtype=torch.uint8)
    sizes = torch.tensor([[40, 36], [20, 30], [40, 20]])
    hard = strategy(count=2)
    now = looked(hard, learner(), LOOK.views(Batch(raw, sizes, torch.arange(3)), 2), LOOK)
    v = now.views
    assert v.raw.shape == (5, 3, 40, 36)
    assert v.sizes.tolist() == [*sizes.tolist(), [32, 32], [32, 32]]
    assert torch.isfinite(LOOK.render(v).x).all()
    assert hard._real(now).shape == (3, 3, 32, 32)


def test_without_generated_images_the_step_is_the_baselines_bit_for_bit():
    states = []
    for hard in (None, strategy(count=0)):
        net = learner()
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        for seed in range(3):
            v = LOOK.views(batch(8, seed), 2, torch.Generator().manual_seed(seed))
            now = forward(net, v, *([hard] if hard else []), look=LOOK)
            opt.zero_grad()
            now.out.loss.mean().backward()
            opt.step()
            if hard:
                hard.after_step(now)
        states.append(net.state_dict())
    assert strategy(count=0).players(learner()) == []
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


# --------------------------------------------------------------------------------------------------------- the players


def test_the_ascent_reaches_the_generator_and_nothing_else():
    hard, net = strategy(), learner()
    now = step(hard, net)
    ascent, tell, fool = hard.players(net)
    assert [ascent.name, tell.name, fool.name] == ["generator-ascent", "discriminator", "generator"]
    assert (
        {id(p) for p in ascent.params} == {id(p) for p in hard.generator.parameters()} == {id(p) for p in fool.params}
    )
    before = {k: x.clone() for k, x in net.state_dict().items()}
    grads = torch.autograd.grad(ascent.objective(now), ascent.params)
    assert all(torch.isfinite(g).all() for g in grads)
    assert sum(float(g.abs().sum()) for g in grads) > 0
    assert all(p.grad is None for p in (*net.parameters(), *hard.averaged.parameters()))
    assert not any(p.requires_grad for p in hard.averaged.parameters())
    assert all(torch.equal(before[k], x) for k, x in net.state_dict().items())  # running statistics as well
    loss = hard.contrastive(now)
    nothing = torch.autograd.grad(loss, list(hard.discriminator.parameters()), allow_unused=True)
    assert all(g is None for g in nothing)


def test_the_gradient_of_the_ascent_is_that_of_finite_differences():
    hard, net = strategy(), learner()
    for m in (hard, net):
        m.double()
    now = step(hard, net)
    p = hard.generator.last.bias

    def loss():
        torch.manual_seed(3)
        return hard.contrastive(now)

    (grad,) = torch.autograd.grad(loss(), p)
    for i in range(3):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p[i] += sign * 2e-4
                ends.append(float(loss()))
                p[i] -= sign * 2e-4
        assert grad[i].item() == pytest.approx((ends[0] - ends[1]) / 4e-4, rel=0.05, abs=5e-3)


def test_a_step_of_the_ascent_raises_the_loss_of_the_same_latents():
    hard, net = strategy(ascent_lr=1e-3), learner()
    now = step(hard, net, 16)
    ascent = hard.players(net)[0]

    def loss():
        torch.manual_seed(3)
        with torch.no_grad():
            return float(hard.contrastive(now))

    before = loss()
    for _ in range(3):
        torch.manual_seed(3)
        for p, g in zip(ascent.params, torch.autograd.grad(ascent.objective(now), ascent.params), strict=True):
            p.grad = g
        ascent.opt.step()
    assert loss() > before


def test_players_are_due_every_nth_step_and_the_discriminator_four_times():
    ascent, tell, fool = strategy(every=3).players(learner())
    assert [p.times(2) for p in (ascent, tell, fool)] == [1, 4, 1]
    assert all(p.times(s) == 0 for p in (ascent, tell, fool) for s in (0, 1, 3, 4))


def test_what_learns_decides_who_plays():
    net = learner()
    assert strategy(learn="frozen").players(net) == []
    assert [p.name for p in strategy(learn="gan").players(net)] == ["discriminator", "generator"]
    hard = strategy(combine="sum", weight=0.5)
    now = step(hard, net)
    fool = hard.players(net)[1]
    torch.manual_seed(1)
    both = fool.objective(now)
    torch.manual_seed(1)
    parts = hard._fool(now) - 0.5 * hard.contrastive(now)
    assert both.item() == pytest.approx(parts.item(), rel=1e-4)


def test_the_average_follows_after_the_players_and_covers_buffers():
    hard, net = strategy(keep=0.75, every=2), learner()
    now = step(hard, net)
    old = hard.averaged.bn.running_mean.clone()
    with torch.no_grad():
        hard.generator.bn.running_mean.add_(1)
        hard.generator.bn.bias.add_(2)
    hard.after_step(now)  # not due
    assert torch.equal(hard.averaged.bn.running_mean, old)
    now.at = Progress(1, 9, 0, 1)
    hard.after_step(now)
    assert torch.allclose(hard.averaged.bn.running_mean, old + 0.25)
    assert torch.allclose(hard.averaged.bn.bias, torch.full_like(hard.averaged.bn.bias, 0.5))


def test_the_logs_split_the_loss_and_measure_pairs_and_weights():
    hard, net = strategy(), learner()
    now = step(hard, net)
    now.at = Progress(1, 9, 0, 1)
    hard.after_step(now)
    state = torch.get_rng_state()
    logs = hard.logs(now)
    assert torch.equal(state, torch.get_rng_state())
    assert logs["loss_real"] == pytest.approx(now.out.loss[:6].mean().item())
    assert logs["loss_generated"] == pytest.approx(now.out.loss[6:].mean().item())
    cosines = [(now.out.q[0][6 + 2 * i] @ now.out.q[0][7 + 2 * i]).item() for i in range(3)]
    assert logs["pair_cosine"] == pytest.approx(sum(cosines) / 3, abs=1e-5)
    assert logs["weights_apart"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        hard.generator.bn.bias.add_(3)
    assert hard.logs(now)["weights_apart"] == pytest.approx(3 * math.sqrt(len(hard.generator.bn.bias)), rel=1e-5)
    assert {"d_real", "d_generated"} <= logs.keys()


# ------------------------------------------------------------------------------------------------------------ refusals


def test_methods_that_cannot_use_generated_images_are_refused_with_the_reason():
    simsiam = SimSiam(nets.Tiny(width=4), dim=8, hidden=4)
    with pytest.raises(HardlabError, match=r"Generated with positives=pair .* one positive an image"):
        strategy().install(simsiam)
    strategy(positives="view").install(simsiam)
    simsiam.indexed = True
    with pytest.raises(HardlabError, match="row"):
        strategy(positives="view").install(simsiam)
    with pytest.raises(HardlabError, match="one view"):
        strategy().install(GAN(nets.Tiny(width=4), width=2))


def test_wrong_options_rendered_views_and_a_parent_of_other_sizes_are_refused():
    wrong = ({"count": 3}, {"count": -1}, {"every": 0}, {"d_steps": 0}, {"keep": 1.0}, {"size": 31})
    for options in wrong:
        (name,) = options
        with pytest.raises(HardlabError, match=name):
            strategy(**options)
    with pytest.raises(HardlabError, match="rendered already"):
        looked(strategy(), learner(), LOOK.render(LOOK.views(batch(), 2)), LOOK)
    other = GAN(strategy().discriminator[0], width=4, latent=8)
    with pytest.raises(HardlabError, match="width"):
        strategy().start_from("gan", other.state_dict())


# ------------------------------------------------------------------------------------------------------------- recipes


def test_the_arms_differ_from_their_simclr_in_the_strategy_and_its_parent_alone():
    for rung in recipes.RUNGS:
        base = recipes.recipe("ppcl-simclr", rung).model_dump()
        for name in ARMS:
            run = recipes.recipe(name, rung)
            assert {k for k, x in run.model_dump().items() if base[k] != x} == {"recipe", "hard", "parent"}
            assert run.parent.data == run.data
            assert run.parent.backbone.options.items() <= run.hard[0].options.items()
        twice = recipes.recipe("ppcl-dd", rung).model_dump()
        assert {k for k, x in twice.items() if base[k] != x} == {"recipe", "hard"}
    build.strategies(recipes.recipe("ppcl"), learner())


def test_the_gan_learns_from_the_images_that_the_run_learns_from():
    for given in ({"data.fraction": 0.3}, {"data": "digits"}, {"data": {"name": "digits", "fraction": 0.5}}):
        run = recipes.recipe("ppcl", "smoke", given)
        assert run.parent.data == run.data


def test_every_seed_has_a_gan_of_its_own_unless_a_parent_is_named():
    one, two = (recipes.recipe("ppcl", "cpu", {"seed": seed}) for seed in (1, 2))
    assert (one.parent.seed, two.parent.seed, one.with_({"seed": 3}).parent.seed) == (1, 2, 3)
    assert (
        one.parent.id
        == recipes.recipe("ppcl-gan", "cpu", {"seed": 1}).parent.id
        == recipes.recipe("gan", "cpu", {"seed": 1}).id
    )
    for given in ({"seed": 2, "parent.seed": 0}, {"parent.seed": 0, "seed": 2}):
        assert recipes.recipe("ppcl", "cpu", given).parent.seed == 0


def test_the_generator_of_rung_cpu_moves_hundreds_of_times_and_ascends_more_slowly_than_it_plays():
    run = recipes.recipe("ppcl", "cpu")
    made = build.strategies(run, build.method(run))[0]
    steps = run.epochs * (5000 // run.batch_size)
    assert sum(made.due(step) for step in range(steps)) == 390
    assert made.ascent_lr < made.generator_lr


@pytest.mark.slow
def test_a_parent_is_trained_once_for_all_arms_and_a_stopped_arm_ends_like_one_that_was_not(tmp_path, monkeypatch):
    run = small_run("ppcl", **{"hard.generated.every": 2, "parent.epochs": 1})
    whole = quiet(run, tmp_path)
    parent = tmp_path / run.parent.id
    assert run_folder.manifest(whole)["parent"] == parent.name
    made = {p: p.stat().st_mtime_ns for p in parent.rglob("*") if p.is_file()}
    second = quiet(small_run("ppcl-gan", **{"parent.epochs": 1}), tmp_path)
    assert run_folder.manifest(second)["parent"] == parent.name
    assert made == {p: p.stat().st_mtime_ns for p in parent.rglob("*") if p.is_file()}

    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / parent.name).symlink_to(parent)
    monkeypatch.setattr(meters.Rate, "tick", stopping_at(3))  # in mid-epoch
    with pytest.raises(stopping.Stopped):
        quiet(run, tmp_path / "parts")
    parts = quiet(run, tmp_path / "parts")
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)

    saved = learned(parent)["method"]
    frozen = learned(second)["hard"][0]
    assert all(torch.equal(frozen[k], x) for k, x in saved.items() if k.startswith(("generator.", "averaged.")))
    moved = learned(whole)["hard"][0]
    assert not torch.equal(moved["generator.bn.bias"], saved["generator.bn.bias"])
    epoch = run_folder.metrics(whole, "epoch")[-1]
    assert {"generator-ascent", "discriminator", "generator", "generated"} <= epoch["seconds"].keys()
    kept = np.load(sorted((whole / "snapshots").glob("generated-*.npz"))[-1])
    assert {"g", "g_ema", "g_frechet", "g_ema_coverage"} <= set(kept)
