"""The players of a run, which optimise parameters: the learner, and those of its method and strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from hardlab import health, optim, ranks
from hardlab.config import Optim, Run
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Player, Step
from hardlab.types import HardlabError


def assemble(run: Run, method: Method, hard: Sequence[Hard]) -> list[Player]:
    """All players of a run in the order of play: the learner, then those of the method and of the strategies.

    Raises HardlabError if two owners train the same tensor, or two players have the same name.
    """
    owners = [method.players(), *(h.players(method) for h in hard)]
    others = [p for owner in owners for p in owner]
    taken = {id(t) for p in others for t in p.params}
    own: list[Tensor] = [p for p in method.parameters() if p.requires_grad and id(p) not in taken]
    weights = {name: w for h in hard for name, w in h.weights.items()}

    def objective(step: Step) -> Tensor:
        return torch.stack([weights.get(name, 1.0) * t.mean() for name, t in step.terms.items() if len(t)]).sum()

    opt = optim.build(own, run.optim, run.batch_size, method.constant_rate())
    players = [Player("learner", own, opt, objective), *others]
    # one owner may give a tensor two objectives in turn, as PPCL does with its generator
    owned = [{id(t) for p in owner for t in p.params} for owner in ([players[0]], *owners)]
    if len(set().union(*owned)) != sum(map(len, owned)) or len({p.name for p in players}) != len(players):
        raise HardlabError("Two strategies of this run train the same tensor or player: keep one of them.")
    return players


def play(
    step: Step,
    players: Sequence[Player],
    config: Optim,
    watch: health.Watch,
    time: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Take the optimiser steps of each player that are due, the learner's first.

    players: as ``assemble`` returns.
    config: the learner's optimiser, which says how to clip gradients.
    watch: checks every loss and gradient.
    time: returns a context that times a part, given by its name.
    """
    learner, *others = players
    together = [p for p in others if p.joint and p.times(step.at.step)]

    def timed(p: Player) -> AbstractContextManager[None]:
        return time("step" if p is learner else p.name)

    def gradients(p: Player, retain: bool = False) -> Sequence[Tensor | None]:
        loss = p.objective(step)
        own = torch.autograd.grad(loss, p.params, allow_unused=True, retain_graph=retain)
        known, *grads = ranks.averaged([loss.detach(), *own])
        assert known is not None
        watch.note(p.name, step.at.step, known, grads, step.out.views.index)
        return grads

    early = {}
    for p in (learner, *together):  # they share a graph, so all gradients come before any step
        with timed(p):
            early[p.name] = gradients(p, retain=bool(together) and p is not together[-1])
    fixed = {id(p) for p in step.method.still(step.at)}
    for p in players:
        with timed(p):
            for _ in range(1 if p.name in early else p.times(step.at.step)):
                grads = early[p.name] if p.name in early else gradients(p)
                for param, grad in zip(p.params, grads, strict=True):
                    param.grad = None if id(param) in fixed else grad
                if p is learner and config.clip is not None:
                    optim.clip(p.params, config.clip, config.clip_by)
                p.opt.step()
                p.opt.zero_grad(set_to_none=True)
