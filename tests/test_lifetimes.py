"""What a step has made ends with it: no graph and no pixels of a step are held while the next one is taken."""

import weakref

import pytest
import torch
from small_runs import small_run
from torch.optim import SGD

from hardlab import contracts, registry, train
from hardlab.hard.base import Hard
from hardlab.methods.base import Player
from hardlab.types import HardlabError


class Saved:
    """A tensor that a graph keeps for its backward pass."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


def left_of_graphs(session: train.Session) -> tuple[int, int]:
    """How many tensors the graphs of two steps kept, and how many they still keep after the second, which is held."""
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()
    kept = 0

    def pack(x: torch.Tensor) -> Saved:
        nonlocal kept
        kept += 1
        saved = Saved(x.detach())  # with its graph, what a node keeps of its own result would be a cycle
        alive.add(saved)
        return saved

    batches = session.batches()
    session.method.on_epoch(session.at, session.data, session.look)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.x):
        train.step(session, next(batches))
        now = train.step(session, next(batches))
    assert len(now.out.loss) and not any(t.requires_grad for t in now.terms.values())
    return kept, len(alive)


def opened(method: str, *strategies: str) -> train.Session:
    run = contracts.run(method, *strategies)
    return train.open(run, data=contracts.toy(), device="cpu", say=lambda line: None)


def on_a_method(strategy: str) -> train.Session:
    """The strategy on the first method that takes it."""
    for method in registry.METHODS:
        try:
            return opened(method, strategy)
        except HardlabError:
            pass
    raise AssertionError(strategy)


@pytest.mark.parametrize("name", registry.METHODS)
def test_no_graph_of_a_method_outlives_its_step(name):
    kept, left = left_of_graphs(opened(name))
    assert kept and not left


@pytest.mark.parametrize("name", registry.HARD)
def test_no_graph_of_a_strategy_outlives_its_step(name):
    kept, left = left_of_graphs(on_a_method(name))
    assert kept and not left


class Beside(Hard):
    """A joint player that does not need the learner's graph, which is kept for it all the same."""

    def players(self, method):
        w = torch.nn.Parameter(torch.ones(1))
        return [Player("beside", [w], SGD([w], 0.1), lambda step: w.square().sum(), joint=True)]


def test_a_graph_that_was_kept_for_a_joint_player_ends_with_the_step_too(tmp_path):
    session = train.open(small_run("simsiam").with_({"hard": []}), device="cpu", say=lambda line: None)
    session.players += Beside().players(session.method)
    kept, left = left_of_graphs(session)
    assert kept and not left


def test_the_loop_holds_nothing_of_a_step_while_it_takes_the_next(monkeypatch):
    session = train.open(small_run("simsiam"), device="cpu", say=lambda line: None)
    earlier: list[weakref.ref] = []
    step, held = train.step, []

    def watched(s, batch):
        held.append(sum(ref() is not None for ref in earlier))
        return step(s, batch)

    class Log:
        def step(self, now):
            earlier.extend([weakref.ref(now), weakref.ref(now.out.views), weakref.ref(now.drawn.raw)])

        def epoch(self, epoch, rates):
            assert rates.keys() == {"learner"}

        def save(self):
            pass

        flush = finish = save

    monkeypatch.setattr(train, "step", watched)
    train.loop(session, Log())
    assert held == [0] * session.total and session.total > 4
