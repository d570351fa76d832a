"""DINO against loops, closed forms and lightly's loss, and Hard View Selection on its crop sets."""

import copy
import itertools
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightly.loss import DINOLoss
from resuming import learned, rows, same, whole_and_parts
from small_runs import small_run
from steps import after, looked
from torchvision.ops import StochasticDepth

from hardlab import nets, recipes, run_folder, train
from hardlab.hard.hvs import HVS
from hardlab.methods.dino import DINO, CropSets
from hardlab.methods.simsiam import SimSiam
from hardlab.types import Batch, HardlabError, Out, Progress
from hardlab.views import COLOUR, PRESETS, Look

B, K = 6, 12
NAMES = [
    "dino",
    "dino-resnet50",
    "dino-multicrop",
    "dino-hvs",
    "dino-resnet50-hvs",
    "dino-multicrop-hvs",
    "simsiam-hvs-8",
]


def method(local=0, net=None, **options):
    torch.manual_seed(0)
    small = {"hidden": 16, "bottleneck": 8, "prototypes": K}
    made = DINO(nets.Tiny(width=4) if net is None else net, **small | options)
    made.multi_crop(local)
    return made


def vit(drop_path=0.0):
    torch.manual_seed(0)
    return nets.vit_micro(patch=8, size=32, drop_path=drop_path)


@pytest.fixture
def look():
    globals_ = [a.but(size=32) for a in PRESETS["dino_global"]]
    return Look(globals_, (0.5,) * 3, (0.25,) * 3, local=[PRESETS["dino_local"][0].but(size=16)])


@pytest.fixture
def batch():
    raw = torch.randint(0, 256, (B, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Batch(raw, torch.full((B, 2), 32), torch.arange(B))


def drawn(look, batch, n=2, local=0, seed=0):
    return look.views(batch, n, torch.Generator().manual_seed(seed), local)


def out_of(q, t):
    return Out(None, q, t, torch.zeros(B))


# ------------------------------------------------------------------------------------------------------- the method


def test_the_loss_of_each_image_is_the_mean_cross_entropy_over_all_terms_of_a_student_and_another_teacher_crop():
    net = method(local=3)
    net.center.copy_(torch.randn(K))
    q = {i: torch.randn(B, K) for i in range(5)}
    t = {i: torch.randn(B, K) for i in range(2)}
    actual = net.score(q, t)
    for i in range(B):
        terms = []
        for g in range(2):
            p = np.exp((t[g][i] - net.center).double().numpy() / 0.04)
            p /= p.sum()
            for v in range(5):
                if v != g:
                    s = q[v][i].double().numpy() / 0.1
                    terms.append(-(p * (s - np.log(np.exp(s).sum()))).sum())
        assert len(terms) == 8
        assert actual[i].item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_the_loss_is_lightlys_and_so_is_the_centre_after_it():
    net, peer = method(local=2), DINOLoss(K, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9)
    for _ in range(3):
        q = {i: torch.randn(B, K) for i in range(4)}
        t = {i: torch.randn(B, K) for i in range(2)}
        expected = peer(list(t.values()), list(q.values()))  # moves its centre after the loss, too
        assert net.score(q, t).mean().item() == pytest.approx(expected.item(), rel=1e-4)
        net.after_step(after(net, out_of(q, t)))
        assert torch.allclose(net.center, peer.center.flatten(), atol=1e-6)


def test_the_centre_moves_after_the_step_and_not_in_forward(look, batch):
    net = method(local=2)
    out = net(look.render(drawn(look, batch, 2, 2)))
    assert torch.count_nonzero(net.center) == 0
    net.after_step(after(net, out))
    assert torch.allclose(net.center, 0.1 * torch.cat([out.t[0], out.t[1]]).mean(0), atol=1e-6)


def test_the_student_sees_all_crops_and_the_teacher_the_global_ones_in_one_pass_per_size(look, batch):
    net, passes = method(local=3), []
    for n in (net.backbone, net.teacher):
        n.register_forward_hook(lambda m, x, y: passes.append(tuple(x[0].shape)))
    out = net(look.render(drawn(look, batch, 2, 3)))
    assert sorted(out.q) == [0, 1, 2, 3, 4]
    assert sorted(out.t) == [0, 1]
    assert passes == [(2 * B, 3, 32, 32), (3 * B, 3, 16, 16), (2 * B, 3, 32, 32)]


def test_student_and_teacher_are_equal_at_the_start_and_no_gradient_reaches_the_teacher(look, batch):
    net = method(local=2)
    for student, teacher in ((net.backbone, net.teacher), (net.head, net.teacher_head)):
        for p, q in zip(student.parameters(), teacher.parameters(), strict=True):
            assert torch.equal(p, q)
            assert not q.requires_grad
    out = net(look.render(drawn(look, batch, 2, 2)))
    assert not any(t.requires_grad for t in out.t.values())
    out.loss.mean().backward()
    assert all(p.grad is None for p in [*net.teacher.parameters(), *net.teacher_head.parameters()])


def test_the_teacher_is_the_moving_average_of_the_student(look, batch):
    net = method(momentum=0.9)
    before = [p.clone() for p in net.teacher_head.parameters()]
    with torch.no_grad():
        for p in net.head.parameters():
            p.add_(1)
    at = Progress(5, 20, 0, 1)
    net.before_step(at)
    net.after_step(after(net, net(look.render(drawn(look, batch))), at=at))
    keep = 1 - 0.1 * (math.cos(math.pi * 5 / 20) + 1) / 2
    for old, new, student in zip(before, net.teacher_head.parameters(), net.head.parameters(), strict=True):
        assert torch.allclose(new, keep * old + (1 - keep) * student, atol=1e-6)


def test_schedules_are_those_of_the_code_in_closed_form():
    net = method(teacher_temperature=0.07, teacher_warmup_temperature=0.04, teacher_warmup_epochs=5)
    expected = [*np.linspace(0.04, 0.07, 5), *[0.07] * 5]
    keeps = []
    for step in range(100):
        net.before_step(Progress(step, 100, step // 10, 10))
        assert net.teacher_now == pytest.approx(expected[step // 10])
        keeps.append(net.keep)
    assert keeps == pytest.approx([1 + 0.5 * (0.996 - 1) * (1 + math.cos(math.pi * i / 100)) for i in range(100)])
    constant = method()
    constant.before_step(Progress(0, 100, 0, 10))
    assert constant.teacher_now == 0.04


def test_the_last_layer_rests_in_the_first_epochs_and_its_gain_stays_at_one_unless_it_is_learned():
    net = method(freeze_last_layer=2)
    still = [set(map(id, net.still(Progress(0, 9, epoch, 9)))) for epoch in range(4)]
    assert still[0] == still[1] == set(map(id, net.head.prototypes.parameters()))
    assert still[2] == still[3] == set()
    assert not net.head.prototypes.gain.requires_grad
    assert method(gain="learned").head.prototypes.gain.requires_grad


def test_the_last_layer_is_torchs_weight_normalised_linear_layer():
    ours = method().head.prototypes
    linear = torch.nn.Linear(8, K, bias=False)
    theirs = torch.nn.utils.parametrizations.weight_norm(linear)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.fill_(1)
        theirs.parametrizations.weight.original1.copy_(ours.direction)
    x = torch.randn(5, 8)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert torch.equal(copy.deepcopy(ours)(x), ours(x))


def test_the_head_has_batch_norm_only_where_asked_to():
    def norms(net):
        return [m for m in net.head.modules() if isinstance(m, torch.nn.BatchNorm1d)]

    assert not norms(method())
    assert len(norms(method(bn=True))) == 2


def test_the_teacher_has_no_drop_path(look, batch):
    net = method(net=vit(drop_path=0.5))

    def rates(part):
        return {m.p for m in part.modules() if isinstance(m, StochasticDepth)}

    assert max(rates(net.backbone)) == 0.5
    assert rates(net.teacher) == {0.0}
    v = look.render(drawn(look, batch))
    q, t = net.embed(v, (0, 1), (0, 1))
    again, same = net.embed(v, (0, 1), (0, 1))
    assert torch.equal(t[0], same[0])
    assert not torch.equal(q[0], again[0])


def test_the_teacher_is_evaluated_first():
    net = method()
    assert list(net.networks()) == ["teacher", "student"]
    assert net.networks()["teacher"] is net.teacher


@pytest.mark.parametrize(
    "options",
    [{"prototypes": 0}, {"temperature": 0.0}, {"teacher_temperature": -1.0}, {"momentum": 1.5},
     {"center_momentum": -0.1}, {"freeze_last_layer": -1}, {"teacher_warmup_epochs": -2}],
)  # fmt: skip
def test_impossible_options_of_dino_are_refused_with_the_value(options):
    (value,) = options.values()
    with pytest.raises(HardlabError, match=str(value)):
        method(**options)


def test_the_loss_falls_where_the_labels_stand_still(look, batch):
    net = method(local=1)
    v = look.render(drawn(look, batch, 2, 1))
    opt = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 3e-3)
    values = []
    for _ in range(25):
        loss = net(v).loss.mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        values.append(loss.item())
    assert values[-1] < values[0] / 2


# ------------------------------------------------------------------------------------------- selection on crop sets


@pytest.mark.parametrize(("n", "m", "v"), [(2, 0, 0), (4, 0, 0), (2, 8, 8), (4, 5, 3), (6, 4, 1), (5, 3, 2)])
def test_crop_sets_are_all_pairs_of_an_even_and_an_odd_view_with_all_combinations_of_small_crops(n, m, v):
    expected = [
        (even, odd, *small)
        for even, odd in itertools.product(range(0, n, 2), range(1, n, 2))
        for small in itertools.combinations(range(n, n + m), v)
    ]
    assert list(CropSets(n, m, v)) == expected


def test_four_large_and_sixteen_small_views_give_51480_sets_of_which_128_distinct_ones_are_scored():
    net, hvs = method(local=8), HVS(local_draws=16)
    assert len(net.candidates(4, 16)) == 51480
    torch.manual_seed(1)
    picks = hvs.candidates(net, 16)
    assert len(set(picks)) == 128
    for even, odd, *small in picks:
        assert even in (0, 2)
        assert odd in (1, 3)
        assert len(set(small)) == 8
        assert all(4 <= s < 20 for s in small)
    torch.manual_seed(1)
    assert hvs.candidates(net, 16) == picks
    assert hvs.candidates(net, 16) != picks


def test_every_candidate_is_drawn_equally_often():
    net, hvs = method(local=1), HVS(draws=2, local_draws=5, limit=2)
    torch.manual_seed(0)
    counts = dict.fromkeys(net.candidates(2, 5), 0)
    for _ in range(1000):
        for pick in hvs.candidates(net, 5):
            counts[pick] += 1
    assert all(abs(c - 400) < 80 for c in counts.values())


def test_the_chosen_set_has_the_highest_loss_of_all_sets_computed_one_by_one(look, batch):
    net, hvs = method(local=2), HVS(local_draws=4, update_bn=False)
    net.center.copy_(torch.randn(K) / 5)
    v = drawn(look, batch, 4, 4)
    now = looked(hvs, net, v, look)
    chosen, seen = now.views, now.seen
    full = look.render(v)
    with torch.no_grad(), nets.running_stats_frozen(net):
        q, t = net.embed(full, range(8), range(4), joint=True)
    for i in range(B):
        losses = {}
        for pick in CropSets(4, 4, 2):
            terms = [
                net.loss(q[pick[a]][i : i + 1], t[g][i : i + 1]).item()
                for g in pick[:2]
                for a in range(4)
                if pick[a] != g
            ]
            losses[pick] = sum(terms) / 6
        worst = max(losses, key=losses.get)
        assert tuple(seen.pairs[seen.best[i]].tolist()) == worst
        assert torch.allclose(seen.loss[i], torch.tensor(list(losses.values())), atol=1e-4)
        assert torch.equal(chosen.x[i], full.x[i, list(worst[:2])])
        for k, slot in enumerate(worst[2:]):
            assert torch.equal(chosen.local[k][i], full.local[slot - 4][i])
            assert torch.equal(chosen.local_params[i, k], v.local_params[i, slot - 4])
    assert torch.equal(look.apply(v.raw, chosen.params), chosen.x)


def test_selection_leaves_the_centre_and_the_teacher_alone(look, batch):
    net = method(local=2)
    before = {k: b.clone() for k, b in net.state_dict().items()}
    looked(HVS(local_draws=3, update_bn=False), net, drawn(look, batch, 4, 3), look)
    assert all(torch.equal(before[k], b) for k, b in net.state_dict().items())


def test_with_two_large_views_and_no_spare_small_crop_the_step_is_the_baselines_bit_for_bit(look, batch):
    states = []
    for hard in (None, HVS(draws=2, update_bn=False)):
        net = method(local=2, momentum=0.9)
        opt = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
        for step in range(3):
            at = Progress(step, 3, 0, 1)
            v = drawn(look, batch, 2, 2, seed=step)
            out = net(look.render(looked(hard, net, v, look).views if hard else v))
            opt.zero_grad()
            out.loss.mean().backward()
            opt.step()
            net.after_step(after(net, out, at=at))
        states.append(net.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_labels_kept_from_the_selection_are_those_that_the_step_would_make_again(look, batch):
    losses, passes = [], []
    for labels in ("again", "reused"):
        net = method(local=1, net=vit())
        batches = []
        net.teacher.register_forward_hook(lambda m, x, y, batches=batches: batches.append(len(x[0])))
        hvs = HVS(local_draws=3, labels=labels)
        out = net(looked(hvs, net, drawn(look, batch, 4, 3), look).views)
        assert sorted(out.t) == [0, 1]
        losses.append(out.loss)
        passes.append(batches)
    assert torch.allclose(losses[0], losses[1], atol=1e-5)
    assert passes == [[4 * B, 2 * B], [4 * B]]


def test_static_colour_and_a_small_probe_work_with_small_crops(look, batch):
    net, v = method(local=2), drawn(look, batch, 4, 4)
    hvs = HVS(local_draws=4, colour="static")
    now = looked(hvs, net, v, look)
    chosen, seen = now.views, now.seen
    assert (seen.params[..., COLOUR] == seen.params[:, :1, COLOUR]).all()
    assert torch.equal(chosen.x, look.apply(chosen.raw, chosen.params))
    assert not torch.equal(chosen.local_params[:, 0, COLOUR], chosen.local_params[:, 1, COLOUR])
    assert torch.equal(chosen.local[0], look.local[0].apply(v.raw, chosen.local_params[:, :1])[:, 0])
    chosen = looked(HVS(local_draws=4, probe_size=16), net, v, look).views
    assert chosen.x.shape == (B, 2, 3, 32, 32)
    assert chosen.local[1].shape == (B, 3, 16, 16)


def test_settings_of_selection_that_cannot_work_are_refused():
    with pytest.raises(HardlabError, match="takes 4 small crops"):
        HVS(local_draws=3).install(method(local=4))
    with pytest.raises(HardlabError, match="takes no small crops"):
        HVS(local_draws=3).install(method())
    with pytest.raises(HardlabError, match="one pass"):
        HVS(labels="reused").install(SimSiam(nets.Tiny(width=4), dim=8))
    with pytest.raises(HardlabError, match="probe_size"):
        HVS(labels="reused", probe_size=16)
    with pytest.raises(HardlabError, match="limit=0"):
        HVS(limit=0)


def test_small_crops_of_several_sizes_are_not_exchanged(batch):
    local = [PRESETS["dino_local"][0].but(size=s) for s in (16, 12)]
    look = Look([a.but(size=32) for a in PRESETS["dino_global"]], (0.5,) * 3, (0.25,) * 3, local=local)
    with pytest.raises(HardlabError, match="one size"):
        looked(HVS(local_draws=4), method(local=2), drawn(look, batch, 4, 4), look)


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rung", recipes.RUNGS)
def test_the_recipes_have_the_published_settings(name, rung):
    run = recipes.recipe(name, rung)
    assert run.recipe == name
    if rung == "paper" and name.startswith("dino"):
        assert (run.optim.clip, run.optim.clip_by, run.optim.weight_decay_end) == (3.0, "all", 0.4)
        assert run.local.count == 8


@pytest.mark.slow
def test_a_dino_run_under_selection_that_was_stopped_in_mid_epoch_ends_bitwise_like_one_that_was_not(
    tmp_path, monkeypatch
):
    run = small_run("dino-hvs", **{"hard.hvs.limit": 5, "logs.views_every": 1, "logs.views_rows": 8})
    # in mid-epoch, and with an epoch's last step
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 2, 4)
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)
    assert run_folder.open_run(whole)[1].networks().keys() == {"teacher", "student"}


def test_the_log_of_crop_sets_holds_every_small_crop_and_who_holds_it(tmp_path):
    logs = {"logs.views_every": 1, "logs.views_rows": 5}
    run = small_run("dino-multicrop-hvs", **{"epochs": 1, "hard.hvs.limit": 20, **logs})
    path = train.train(run, tmp_path, device="cpu", say=lambda line: None)
    views, crops = (pq.read_table(path / name).to_pandas() for name in ("views", "crops"))
    small = 2 * run.local.count
    assert len(views.groupby(["step", "index"]).size().unique()) == 1
    assert (crops.groupby(["step", "index"])["slot"].apply(list).apply(lambda s: s == list(range(4, 4 + small)))).all()
    held = crops[crops["step"] == 1].drop_duplicates("slot").explode("candidates")
    assert (held.groupby("candidates").size() == run.local.count).all()  # each set takes so many of them
    assert set(held["candidates"]) == set(views["candidate"])
    assert ((crops["height"] > 0) & (crops["height"] <= crops["image_h"])).all()
