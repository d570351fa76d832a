"""AdCo's learned negatives against autograd, and what they share with MoCo's queue."""

import math

import pytest
import torch
import torch.nn.functional as F
from resuming import learned, rows, same, whole_and_parts
from small_runs import small_run
from steps import forward, rendered

from hardlab import build, nets, recipes, registry, run_folder
from hardlab.hard import adco
from hardlab.hard.adco import AdCo, KeysOfOthers, Learned
from hardlab.methods.moco import MoCo
from hardlab.methods.simclr import SimCLR
from hardlab.methods.simsiam import SimSiam
from hardlab.types import HardlabError, Progress

N, K, D = 6, 20, 5
TILE = adco._TILE  # as shipped


def unit(n, d, seed):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.double), dim=1)


def bank(inbatch=True, objective="contrastive", wrt="vector", temperature=0.02, size=K, dim=D):
    torch.manual_seed(0)
    made = Learned(size, dim, KeysOfOthers() if inbatch else None, temperature, objective, wrt).double()
    with torch.no_grad():
        made.vectors.mul_(torch.rand(size, 1, dtype=torch.double) + 0.5)  # lengths matter
    return made


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch):
    monkeypatch.setattr(adco, "_TILE", 7 * N)


def plain(q, k, w, temperature, inbatch):
    """(N,) AdCo's loss as its code writes it."""
    keys = q @ k.T if inbatch else (q * k).sum(1, keepdim=True)
    label = torch.arange(len(q)) if inbatch else torch.zeros(len(q), dtype=torch.long)
    logits = torch.cat([keys, q @ F.normalize(w, dim=1).T], 1) / temperature
    return F.cross_entropy(logits, label, reduction="none")


@pytest.mark.parametrize("inbatch", [True, False])
def test_one_pass_gives_the_loss_and_both_gradients_of_two_autograd_passes(inbatch):
    made, k = bank(inbatch), unit(N, D, 2)
    q = unit(N, D, 1).requires_grad_()
    with made.record():
        loss = made.loss(q, k, 0.12)
    assert torch.allclose(loss, plain(q, k, made.vectors, 0.12, inbatch), rtol=1e-10)
    weights = torch.rand(N, dtype=torch.double)
    (actual,) = torch.autograd.grad((weights * loss).sum(), q)
    (expected,) = torch.autograd.grad((weights * plain(q, k, made.vectors, 0.12, inbatch)).sum(), q)
    assert torch.allclose(actual, expected, rtol=1e-8, atol=1e-10)
    sharp = plain(q.detach(), k, made.vectors, 0.02, inbatch).mean()
    assert made.value.item() == pytest.approx(sharp.item(), rel=1e-10)
    (up,) = torch.autograd.grad(sharp, made.vectors)
    assert torch.allclose(-made.descent, up, rtol=1e-7, atol=1e-12)


def test_in_float32_both_gradients_are_within_1e_5_of_two_plain_passes(monkeypatch):
    monkeypatch.setattr(adco, "_TILE", 2**18)
    made = bank(size=4096, dim=128).float()
    q, k = unit(64, 128, 1).float().requires_grad_(), unit(64, 128, 2).float()
    with made.record():
        (actual,) = torch.autograd.grad(made.loss(q, k, 0.12).mean(), q)
    (expected,) = torch.autograd.grad(plain(q, k, made.vectors, 0.12, True).mean(), q)
    (up,) = torch.autograd.grad(plain(q.detach(), k, made.vectors, 0.02, True).mean(), made.vectors)
    assert (actual - expected).norm() <= 1e-5 * expected.norm()
    assert (-made.descent - up).norm() <= 1e-5 * up.norm()


def test_the_gradient_of_the_queries_passes_a_finite_difference_check():
    made, k = bank(), unit(N, D, 2)
    assert torch.autograd.gradcheck(lambda q, k: made.loss(q, k, 0.12), (unit(N, D, 1).requires_grad_(), k))
    both = (unit(N, D, 1).requires_grad_(), k.requires_grad_())  # SimCLR's gradient goes through both views
    assert torch.autograd.gradcheck(lambda q, k: made.loss(q, k, 0.12), both)


def test_the_direction_is_tangent_and_a_small_step_along_it_raises_the_adversarys_loss():
    made, q, k = bank(), unit(N, D, 1).requires_grad_(), unit(N, D, 2)
    with made.record():
        made.loss(q, k, 0.12)
    w = made.vectors.detach()
    assert (w * made.descent).sum(1).abs().max() < 1e-12
    before = plain(q.detach(), k, w, 0.02, True).mean()
    assert plain(q.detach(), k, w - 1e-4 * made.descent, 0.02, True).mean() > before


def test_the_softmax_has_mass_one():
    made = bank()
    with made.record():
        made.loss(unit(N, D, 1).requires_grad_(), unit(N, D, 2), 0.12)
    assert sum(float(made.mass[x]) for x in ("own", "keys", "negatives")) == pytest.approx(1)
    assert 0 <= float(made.mass["negatives_sharp"]) <= 1


def test_the_alternative_objective_climbs_j_of_section_4_1():
    made, q = bank(objective="alternative"), unit(N, D, 1).requires_grad_()
    with made.record():
        made.loss(q, unit(N, D, 2), 0.12)
    s = q.detach() @ F.normalize(made.vectors, dim=1).T
    j = 0.02 * torch.logsumexp(s / 0.02, 0).sum()
    (up,) = torch.autograd.grad(j, made.vectors)
    assert made.value.item() == pytest.approx(j.item(), rel=1e-9)
    assert torch.allclose(-made.descent, up, rtol=1e-7, atol=1e-12)


def test_the_gradient_for_the_unit_vector_is_equation_6():
    made, q, k = bank(inbatch=False, wrt="unit"), unit(N, D, 1).requires_grad_(), unit(N, D, 2)
    with made.record():
        made.loss(q, k, 0.12)
    n, x = F.normalize(made.vectors.detach(), dim=1), q.detach()
    for j in range(K):
        expected = torch.zeros(D, dtype=torch.double)
        for i in range(N):
            bottom = math.exp(x[i] @ k[i] / 0.02) + sum(math.exp(x[i] @ m / 0.02) for m in n)
            expected += math.exp(x[i] @ n[j] / 0.02) / bottom * x[i] / (N * 0.02)
        assert torch.allclose(-made.descent[j], expected, atol=1e-12)


def test_two_losses_of_a_step_add_their_shares_and_others_are_not_answered():
    made, q, k = bank(), unit(N, D, 1).requires_grad_(), unit(N, D, 2)
    made.share = 0.5
    with made.record():
        made.loss(q, k, 0.12)
        made.loss(k.clone().requires_grad_(), q.detach(), 0.12)
        with torch.no_grad():
            made.loss(q, k, 0.12)
    made.loss(unit(N, D, 9).requires_grad_(), k, 0.12)
    both = plain(q.detach(), k, made.vectors, 0.02, True).mean() + plain(k, q.detach(), made.vectors, 0.02, True).mean()
    (up,) = torch.autograd.grad(both / 2, made.vectors)
    assert torch.allclose(-made.descent, up, rtol=1e-7, atol=1e-12)


def test_columns_and_nearest_hold_the_batch_and_the_bank():
    made, q, k = bank(), unit(N, D, 1), unit(N, D, 2)
    columns = made.similarities(q, k)
    assert columns.shape == (N, N + K)
    assert torch.allclose(made.nearest(q, k), columns.amax(1))
    assert torch.isinf(columns.diagonal()).all()


def played(method, hard):
    """Players of a run whose strategy is installed."""
    hard.install(method)
    hard.on_start(None, 8)
    return hard.players(method)[0]


def moco(**options):
    torch.manual_seed(0)
    return MoCo(nets.Tiny(width=4), dim=8, queue=16, bn="plain", temperature=0.12, **options)


def test_the_first_negatives_are_keys_and_then_the_key_encoder_starts_again():
    method, hard = moco(), AdCo()
    player = played(method, hard)
    assert [player.times(s) for s in range(4)] == [0, 0, 1, 1]
    with torch.no_grad():
        method.head[0].weight.add_(1)
    keys = []
    for step in range(2):
        hard.before_step(Progress(step, 10, 0, 1))
        now = forward(method, rendered(torch.randn(8, 2, 3, 16, 16)), hard, at=Progress(step, 10, 0, 1))
        assert not torch.equal(method.key_head[0].weight, method.head[0].weight)
        method.after_step(now)
        hard.after_step(now)
        keys.append(now.out.t[1])
    assert torch.equal(hard.bank.vectors, torch.cat(keys))
    assert torch.equal(method.key_head[0].weight, method.head[0].weight)
    assert torch.equal(hard.queries.vectors[:2].flatten(0, 1).norm(dim=1).round(), torch.ones(16))


@pytest.mark.parametrize(("symmetric", "total"), [(False, "mean"), (True, "mean"), (True, "sum")])
def test_the_player_moves_by_sgd_against_the_queries_before_the_networks_step(symmetric, total):
    method, hard = moco(symmetric=symmetric, total=total), AdCo(init="random")
    player = played(method, hard)
    w = hard.bank.vectors
    before = w.detach().clone()
    now = forward(method, rendered(torch.randn(8, 2, 3, 16, 16)), hard)
    out = now.out
    (grad,) = torch.autograd.grad(player.objective(now), player.params, retain_graph=True)
    expected = -sum(plain(out.q[a].detach(), out.t[b], w, 0.02, True).mean() for a, b in method.pairs)
    expected = expected if total == "sum" else expected / len(method.pairs)
    (exact,) = torch.autograd.grad(expected, w)
    assert torch.allclose(grad, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
    w.grad = grad
    player.opt.step()
    assert torch.allclose(w, before - 3.0 * (exact + 1e-4 * before), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fill_keys", [True, False])
def test_the_keys_of_other_images_are_negatives_in_the_first_steps_unless_they_are_left_out(fill_keys):
    method, hard = moco(), AdCo(size=16, fill_keys=fill_keys)
    hard.install(method)
    hard.on_start(None, 8)
    for step, inbatch in ((0, fill_keys), (1, fill_keys), (2, True)):
        hard.before_step(Progress(step, 10, 0, 1))
        out = forward(method, rendered(torch.randn(8, 2, 3, 16, 16)), hard).out
        expected = plain(out.q[0], out.t[1], hard.bank.vectors, 0.12, inbatch)
        assert torch.allclose(out.loss, expected, rtol=1e-4), step


def test_five_crops_are_summed_in_the_loss_and_in_the_direction():
    method = moco()
    method.multi_crop(5)
    assert (method.slots, method.pairs) == (1, ((1, 0), (2, 0), (3, 0), (4, 0), (5, 0)))
    hard = AdCo(init="random")
    player = played(method, hard)
    local = tuple(torch.randn(8, 3, s, s) for s in (16, 16, 12, 12, 8))
    now = forward(method, rendered(torch.randn(8, 1, 3, 16, 16), local=local), hard)
    out = now.out
    w = hard.bank.vectors
    assert torch.allclose(out.loss, sum(plain(out.q[i], out.t[0], w, 0.12, True) for i in range(1, 6)), rtol=1e-4)
    exact = torch.autograd.grad(sum(plain(out.q[i].detach(), out.t[0], w, 0.02, True).mean() for i in range(1, 6)), w)[
        0
    ]
    (grad,) = torch.autograd.grad(player.objective(now), player.params)
    assert torch.allclose(-grad, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


def test_simclr_keeps_its_own_negatives_beside_the_learned_ones():
    torch.manual_seed(0)
    method = SimCLR(nets.Tiny(width=4), dim=8)
    AdCo(size=32, init="random").install(method)
    out = method(rendered(torch.randn(8, 2, 3, 16, 16)))
    z = torch.cat([out.q[0], out.q[1]]).detach()
    bank = F.normalize(method.negatives.owned.to.vectors, dim=1)
    logits = torch.cat([(z @ z.T).fill_diagonal_(-torch.inf), z @ bank.T], 1)
    rows = F.cross_entropy(logits / 0.1, (torch.arange(16) + 8) % 16, reduction="none")
    assert torch.allclose(out.loss, (rows[:8] + rows[8:]) / 2, rtol=1e-4)


def test_renormalised_negatives_have_unit_length_and_a_cosine_ends_at_nothing():
    method, hard = moco(), AdCo(init="random", renorm=True, schedule="cosine")
    player = played(method, hard)
    now = forward(method, rendered(torch.randn(8, 2, 3, 16, 16)), hard, at=Progress(5, 10, 0, 1))
    with torch.no_grad():
        hard.bank.vectors.mul_(3)
    hard.after_step(now)
    assert torch.allclose(hard.bank.vectors.norm(dim=1), torch.ones(16))
    for step, rate in ((0, 3.0), (5, 1.5), (10, 0.0)):
        hard.before_step(Progress(step, 10, 0, 1))
        assert player.opt.param_groups[0]["lr"] == pytest.approx(rate)


def test_what_is_saved_of_the_bank_is_saved_once():
    method, hard = moco(), AdCo()
    hard.install(method)
    assert "bank.vectors" in hard.state_dict()
    assert not any("negatives" in key for key in method.state_dict())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AdCo(size=0), "size=0"),
        (lambda: AdCo(temperature=0.001), "1/70"),
        (lambda: AdCo(lr=-1.0), "lr=-1"),
        (lambda: AdCo().install(SimSiam(nets.Tiny(width=4), dim=8, hidden=4)), "SimSiam has none"),
        (lambda: AdCo().install(MoCo(nets.Tiny(width=4), queue=8, temperature=0.01)), "method.temperature=0.01"),
        (lambda: [h.install(m) for m in [moco()] for h in (AdCo(), AdCo())], "done once"),
        (lambda: moco(symmetric=True).multi_crop(5), "symmetric"),
        (lambda: registry.check("strategy", "adco", {"init": "features"}), "init"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(make, words):
    with pytest.raises(HardlabError, match=words) as e:
        make()
    assert "\n" not in str(e.value)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3])  # while the keys are collected, and after
def test_a_stopped_run_ends_bitwise_like_a_whole_one(stop, tmp_path, monkeypatch):
    monkeypatch.setattr(adco, "_TILE", 2**18)
    run = small_run("adco", **{"hard.adco.init": "keys", "method.bn": "plain"})
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, stop)
    assert same(learned(whole), learned(parts))
    assert rows(whole) == rows(parts)
    row = run_folder.metrics(whole, "step")[-1]
    assert {"accuracy", "adco.norm", "adco.cos_nearest", "adco.mass_negatives", "adco.mass_keys"} <= row.keys()
    assert row["lr"]["negatives"] == 3.0
    assert run_folder.open_run(whole)[1].negatives.owned.to.vectors.shape == (64, 128)
    assert list((whole / "snapshots").glob("adco-*.npz"))


@pytest.mark.parametrize("name", recipes.adco.RECIPES)
def test_every_rung_can_be_built_and_differs_from_its_queue_in_the_strategy_alone(name):
    for rung in recipes.RUNGS:
        run = recipes.recipe(name, rung)
        with torch.device("meta"):
            build.strategies(run, build.method(run))
        base = {"adco-symmetric": "adco-symmetric-queue", "adco-multicrop": "adco-multicrop-queue"}.get(
            name, "adco-queue"
        )
        if not name.endswith("queue"):
            one, other = run.model_dump(), recipes.recipe(base, rung).model_dump()
            assert {k for k in one if one[k] != other[k]} == {"recipe", "hard"}


def test_negatives_that_do_not_move_leave_the_network_the_step_of_plain_autograd():
    method, hard = moco(), AdCo(init="random", lr=0.0)
    hard.install(method)
    out = forward(method, rendered(torch.randn(8, 2, 3, 16, 16)), hard).out
    params = [p for p in method.parameters() if p.requires_grad]
    actual = torch.autograd.grad(out.loss.mean(), params, retain_graph=True)
    expected = torch.autograd.grad(plain(out.q[0], out.t[1], hard.bank.vectors.detach(), 0.12, True).mean(), params)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(actual, expected, strict=True))


def test_a_step_with_the_papers_bank_makes_no_copy_of_it(monkeypatch):
    monkeypatch.setattr(adco, "_TILE", TILE)
    size, dim = 65536, 128
    made = bank(size=size, dim=dim).float()
    opt = torch.optim.SGD([made.vectors], 3.0, momentum=0.9, weight_decay=1e-4, fused=True)
    k = unit(32, dim, 2).float()

    def step():
        q = unit(32, dim, 1).float().requires_grad_()
        with made.record():
            loss = made.loss(q, k, 0.12)
        torch.autograd.grad(loss.mean(), q)
        objective = adco.Known.apply(made.vectors, -made.value, made.descent)
        (made.vectors.grad,) = torch.autograd.grad(objective, made.vectors)
        opt.step()
        opt.zero_grad(set_to_none=True)

    for _ in range(2):  # lasting buffers and the velocity are made once
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < size * dim * 4
