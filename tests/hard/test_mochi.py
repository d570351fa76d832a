"""MoCHi against a loop, and what it shares with SynCo."""

from __future__ import annotations

import pytest
import torch
from small_runs import small_run
from synthetic import Fixed, drawn, moco, nearest, unit
from torch import nn

from hardlab import build, nets, recipes, train
from hardlab.hard.mochi import MoCHi
from hardlab.hard.synco import SynCo
from hardlab.methods.simclr import SimCLR
from hardlab.types import HardlabError, Progress


def test_mochi_equals_a_loop_over_queries_pairs_and_shares(monkeypatch):
    method = moco(MoCHi(hard=5, pairs=3, queries=2, warmup_epochs=0))
    q, k = unit(4, 6, 0), unit(4, 6, 1)
    ij, m = torch.randint(5, (2, 4, 3)), torch.randint(5, (4, 2))
    a, b = torch.rand(4, 3, 1, dtype=torch.double), torch.rand(4, 2, 1, dtype=torch.double)
    Fixed(monkeypatch, [ij, m], [a, b])
    actual = drawn(MoCHi, method, q, k)
    for n in range(4):
        hard = nearest(method, q[n], 5)
        expected = []
        for s in range(3):
            h = a[n, s, 0] * hard[ij[0, n, s]] + (1 - a[n, s, 0]) * hard[ij[1, n, s]]
            expected.append(float(q[n] @ h / h.norm()))
        for s in range(2):
            share = b[n, s, 0] * 0.5
            h = share * q[n] + (1 - share) * hard[m[n, s]]
            expected.append(float(q[n] @ h / h.norm()))
        assert actual[n].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [MoCHi, SynCo])
def test_what_is_made_takes_no_gradient_and_what_is_logged_draws_nothing(kind):
    method = moco(kind(**kind.SMALL))
    q, k = unit(4, 6, 0).requires_grad_(), unit(4, 6, 1)
    state = torch.get_rng_state()
    near = method.negatives.nearest(q, k)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(near, (q @ method.negatives.stored().T).amax(1))
    torch.manual_seed(0)
    columns = drawn(kind, method, q, k)
    (grad,) = torch.autograd.grad(columns[0, 0], q)
    assert float(grad[0] @ q.detach()[0]) == pytest.approx(
        columns[0, 0].item()
    )  # linear in q: the made one is a constant


@pytest.mark.parametrize("kind", ["mochi", "synco"])
def test_a_warm_up_adds_nothing_and_one_as_long_as_the_run_is_refused(kind):
    hard = build.registry.build("strategy", kind, {"hard": 8, "warmup_epochs": 1})
    hard.name = kind
    method = moco(hard)
    q, k = unit(4, 6, 0), unit(4, 6, 1)
    hard.before_step(Progress(9, 20, 0, 2))
    assert method.negatives.similarities(q, k).shape == (4, 40)
    hard.before_step(Progress(10, 20, 1, 2))
    assert method.negatives.similarities(q, k).shape[1] > 40
    with pytest.raises(HardlabError, match=rf"hard\.{kind}\.warmup_epochs=1 leaves nothing of a run of 1 epochs"):
        hard.check_steps(10, 1)


@pytest.mark.parametrize("kind", [MoCHi, SynCo])
def test_they_are_refused_where_too_few_negatives_are_kept(kind):
    with pytest.raises(HardlabError, match="keeps none of its own"):
        kind().install(SimCLR(nets.Tiny(width=4)))
    with pytest.raises(HardlabError, match="hard=1024: the queue has 40"):
        moco(kind())


@pytest.mark.parametrize("name", ["simclr-hcl", "moco-mochi", "moco-synco"])
def test_there_is_a_recipe_that_trains(name):
    session = train.open(small_run(name), device="cpu")
    step = train.step(session, next(session.batches()))
    assert torch.isfinite(step.out.loss).all()
    assert isinstance(session.method.negatives, nn.Module)
    for rung in recipes.RUNGS:
        assert [f"{r.method.name}-{r.hard[0].name}" for r in [recipes.recipe(name, rung)]] == [name]
