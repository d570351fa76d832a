"""The manual IoU policy: its bound in closed form, its redraws against loops, and where it must change nothing."""

import pytest
import torch
from resuming import learned, rows, same, whole_and_parts
from scipy.stats import ks_2samp
from small_runs import small_run
from steps import looked

from hardlab import nets, recipes, registry
from hardlab.hard.iou import IoUPolicy
from hardlab.methods.base import Method
from hardlab.methods.simsiam import SimSiam
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import COLOUR, PRESETS, Look, iou


@pytest.fixture
def look():
    return Look(PRESETS["simsiam_cifar"], (0.5,) * 3, (0.25,) * 3)


def batch(n=64, size=32):
    raw = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Batch(raw, torch.full((n, 2), size), torch.arange(n))


def at(epoch, epochs=100, step=0):
    return Progress(step, 1000, epoch, epochs)


def method():
    torch.manual_seed(0)
    return SimSiam(nets.Tiny(width=4), dim=8, hidden=4)


@pytest.mark.parametrize(("start", "end"), [(0.3, 0.35), (0.4, 0.6), (0.1, 0.8), (1.0, 0.1)])
@pytest.mark.parametrize("warmup", [0, 10])
def test_the_bound_is_a_line_over_the_epochs_after_the_warm_up(start, end, warmup):
    policy = IoUPolicy(start, end, warmup_epochs=warmup)
    for epoch in range(100):
        policy.before_step(at(epoch))
        line = start + (end - start) * (epoch - warmup) / (99 - warmup)
        assert policy.bound == pytest.approx(1.0 if epoch < warmup else line)


def test_alternating_leaves_every_other_step_without_a_bound():
    policy = IoUPolicy(0.3, 0.3, alternate="every-other")
    largest = []
    for step in range(6):
        policy.before_step(at(0, step=step))
        largest.append(policy.bound)
    assert largest == [0.3, 1.0, 0.3, 1.0, 0.3, 1.0]


def test_random_alternation_leaves_a_share_of_the_pairs_as_they_were_drawn(look):
    policy = IoUPolicy(0.1, 0.1, alternate="random", plain=0.7)
    v = look.views(batch(2000), 2)
    policy.before_step(at(0))
    after = looked(policy, method(), v, look).views
    over = iou(v.params[:, 0], v.params[:, 1]) > 0.1
    same = (after.params == v.params).all(2).all(1)
    assert same[~over].all()
    assert same[over].float().mean() == pytest.approx(0.7, abs=0.04)


@pytest.mark.parametrize("bound", [0.7, 0.02])
def test_every_pair_keeps_the_bound_or_has_used_up_its_tries(bound, look):
    policy = IoUPolicy(bound, bound, tries=20)
    v = look.views(batch(), 2)
    policy.before_step(at(0))
    params, tries, gave_up = policy.redraw(v.params, v.sizes, look)
    kept = iou(params[:, 0], params[:, 1]) <= bound
    assert torch.equal(gave_up, ~kept)
    assert (tries[gave_up] == 20).all()
    assert (tries >= 1).all()
    assert gave_up.any() == (bound == 0.02)


def test_tries_are_counted_as_a_loop_over_the_same_draws_counts_them(look):
    policy, v = IoUPolicy(0.15, 0.15, tries=11), look.views(batch(16), 2)
    policy.before_step(at(0))
    torch.manual_seed(5)
    params, tries, gave_up = policy.redraw(v.params, v.sizes, look)
    torch.manual_seed(5)
    left, counted, last = list(range(16)), [0] * 16, [None] * 16
    for many in (1, 2, 4, 4):  # 11 tries
        drawn = look.draw(torch.full((len(left) * many, 2), 32), 2).view(len(left), many, 2, -1)
        still = []
        for row, pairs in zip(left, drawn, strict=True):
            for pair in pairs:
                counted[row], last[row] = counted[row] + 1, pair
                if iou(pair[0], pair[1]) <= 0.15:
                    break
            else:
                still.append(row)
        left = still
    assert tries.tolist() == counted
    assert gave_up.nonzero()[:, 0].tolist() == left
    assert torch.equal(params, torch.stack(last))


def test_what_is_logged_are_the_means_over_the_batch(look):
    policy, net, v = IoUPolicy(0.2, 0.2, tries=3), method(), look.views(batch(), 2)
    policy.before_step(at(0))
    torch.manual_seed(1)
    now = looked(policy, net, v, look)
    after = now.views
    over = iou(v.params[:, 0], v.params[:, 1]) > 0.2
    logs = {key.removeprefix("ioupolicy."): float(x) for key, x in policy.numbers(now).items()}
    assert logs["bound"] == pytest.approx(0.2)
    assert logs["redrawn"] == pytest.approx(over.float().mean().item())
    assert logs["gave_up"] == pytest.approx((iou(after.params[:, 0], after.params[:, 1]) > 0.2).float().mean().item())
    torch.manual_seed(1)
    tries = policy.redraw(v.params[over], v.sizes[over], look)[1]
    assert logs["tries"] == pytest.approx(tries.sum().item() / 64)


def test_the_overlap_under_a_bound_is_distributed_as_by_rejection_one_pair_at_a_time(look):
    policy, bound = IoUPolicy(0.3, 0.3), 0.3
    policy.before_step(at(0))
    v = look.views(batch(3000), 2)
    after = looked(policy, method(), v, look).views.params
    expected = []
    while len(expected) < 3000:
        pairs = look.draw(torch.full((3000, 2), 32), 2)
        overlaps = iou(pairs[:, 0], pairs[:, 1])
        expected += overlaps[overlaps <= bound].tolist()
    assert ks_2samp(iou(after[:, 0], after[:, 1]).numpy(), expected).pvalue > 0.01


def test_a_redrawn_view_has_a_fresh_appearance(look):
    policy, v = IoUPolicy(0.2, 0.2), look.views(batch(), 2)
    policy.before_step(at(0))
    after = looked(policy, method(), v, look).views
    over = iou(v.params[:, 0], v.params[:, 1]) > 0.2
    assert (after.params[over][..., COLOUR] != v.params[over][..., COLOUR]).any(2).float().mean() > 0.9
    assert torch.equal(after.params[~over], v.params[~over])


def test_a_bound_of_one_is_the_baseline_bit_for_bit(look):
    states = []
    for policy in (None, IoUPolicy(1.0, 1.0)):
        net = method()
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            v = look.views(batch(16), 2, generator)
            v = look.render(looked(policy, net, v, look).views if policy else v)
            opt.zero_grad()
            net(v).loss.mean().backward()
            opt.step()
        states.append((net.state_dict(), torch.get_rng_state()))
    assert all(torch.equal(states[0][0][k], states[1][0][k]) for k in states[0][0])
    assert torch.equal(states[0][1], states[1][1])


def test_a_method_of_one_view_and_impossible_options_are_refused():
    class One(Method):
        slots = 1

    with pytest.raises(HardlabError, match="One has 1 large view"):
        IoUPolicy().install(One(nets.Tiny(width=4)))
    for options in ({"start": 1.5}, {"end": -0.1}, {"plain": 2.0}, {"tries": 0}, {"warmup_epochs": -1.0}):
        with pytest.raises(HardlabError, match=next(iter(options))):
            IoUPolicy(**options)
    with pytest.raises(HardlabError, match="alternate"):
        registry.build("strategy", "iou", {"alternate": "sometimes"})


def test_a_run_that_was_stopped_ends_bitwise_like_one_that_was_not(tmp_path, monkeypatch):
    run = small_run("simsiam-iou-30-35-alternating", **{"hard.iou.start": 0.2, "hard.iou.tries": 4})
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 3)
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)
    steps = [row for row in rows(whole) if row["kind"] == "step"]
    assert {"iou.bound", "iou.redrawn", "iou.tries", "iou.gave_up"} < set(steps[0])
    assert steps[1]["iou.tries"] == 0 < steps[0]["iou.tries"]


IOU = [name for name in recipes.RECIPES if "-iou-" in name]


@pytest.mark.parametrize("name", IOU)
@pytest.mark.parametrize("rung", recipes.RUNGS)
def test_the_rows_of_table_4_build_at_every_rung(name, rung):
    from hardlab import build

    run = recipes.recipe(name, rung)
    with torch.device("meta"):
        (policy,) = build.strategies(run, build.method(run))
    assert isinstance(policy, IoUPolicy)
    start, end = (int(x) / 100 for x in name.split("-")[2:4])
    assert (policy.start, policy.end) == (start, end)
    assert policy.alternate == ("every-other" if name.endswith("-alternating") else "never")
