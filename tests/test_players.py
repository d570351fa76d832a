"""Who moves which parameters, and in which order, on losses with known gradients."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from hardlab import health, nets, recipes
from hardlab.config import Optim
from hardlab.methods.base import Player
from hardlab.methods.simclr import SimCLR
from hardlab.players import assemble, play
from hardlab.types import HardlabError


def number(value: float) -> Tensor:
    return torch.tensor([value], requires_grad=True)


def sgd(name: str, p: Tensor, objective, **more) -> Player:
    return Player(name, [p], torch.optim.SGD([p], lr=0.1), objective, **more)


def taken(players: list[Player], still: tuple[Tensor, ...] = ()) -> None:
    """A step whose method keeps ``still``."""
    method = SimpleNamespace(still=lambda at: still)
    views = SimpleNamespace(index=torch.arange(2))
    step = SimpleNamespace(method=method, at=SimpleNamespace(step=0), out=SimpleNamespace(views=views))
    play(step, players, Optim(lr=0.1), health.Watch(), lambda part: nullcontext())  # type: ignore[arg-type]


def test_a_joint_player_differentiates_before_any_step_and_another_after_the_learners() -> None:
    w, joint, apart = number(3.0), number(2.0), number(5.0)
    taken([
        sgd("learner", w, lambda step: (w * joint).sum()),
        sgd("joint", joint, lambda step: -(w * joint).sum(), joint=True),
        sgd("apart", apart, lambda step: (w.detach() * apart).sum()),
    ])  # fmt: skip
    moved = 3.0 - 0.1 * 2.0  # by the partner as it was
    assert w.item() == pytest.approx(moved)
    assert joint.item() == pytest.approx(2.0 + 0.1 * 3.0)  # up, against the learner as it was
    assert apart.item() == pytest.approx(5.0 - 0.1 * moved)  # against the learner that has moved


def test_a_player_takes_as_many_steps_as_are_due_and_a_still_parameter_none() -> None:
    w, twice, never = number(1.0), number(1.0), number(1.0)
    taken(
        [
            sgd("learner", w, lambda step: (w * 2).sum()),
            sgd("twice", twice, lambda step: (twice * 3).sum(), times=lambda step: 2),
            sgd("never", never, lambda step: (never * 3).sum(), times=lambda step: 0),
        ],
        still=(w,),
    )
    assert (w.item(), never.item()) == (1.0, 1.0)
    assert twice.item() == pytest.approx(1.0 - 2 * 0.1 * 3)


def strategy(name: str, p: Tensor) -> SimpleNamespace:
    """A strategy with a player of this name that moves ``p``."""
    return SimpleNamespace(players=lambda method: [sgd(name, p, lambda step: p.sum())], weights={})


def test_the_learner_has_what_no_other_player_moves_and_two_owners_of_a_tensor_are_refused() -> None:
    run, method = recipes.recipe("simclr", "smoke"), SimCLR(nets.Tiny(width=4), dim=4)
    first = next(method.parameters())
    learner, other = assemble(run, method, [strategy("other", first)])  # type: ignore[list-item]
    assert {id(p) for p in learner.params} == {id(p) for p in method.parameters() if p.requires_grad} - {id(first)}
    assert other.params == [first]
    for second in (strategy("another", first), strategy("other", number(1.0))):
        with pytest.raises(HardlabError, match="same tensor or player"):
            assemble(run, method, [strategy("other", first), second])  # type: ignore[list-item]
