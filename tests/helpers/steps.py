"""Steps by hand: what the trainer hands to the hooks, for tests of a single one."""

from __future__ import annotations

from typing import Any

import torch

from hardlab import train
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Step
from hardlab.types import Drawn, Out, Progress, Rendered
from hardlab.views import PRESETS, Look

AT = Progress(0, 10, 0, 1)


def rendered(x: torch.Tensor, index: torch.Tensor | None = None, **more: Any) -> Rendered:
    """Views of the given pixels (B,V,3,S,S)."""
    b, rows = len(x), torch.arange(len(x))
    sizes, params = torch.full((b, 2), x.shape[-1]), torch.zeros(b, x.shape[1], 15)
    return Rendered(x[:, 0], sizes, rows if index is None else index, rows, params, x=x, **more)


def step(method: Method, v: Drawn | None, look: Look | None = None, at: Progress = AT, low: bool = False) -> Step:
    """A step that begins with the views ``v``."""
    return Step(method, look, v, at, low)  # type: ignore[arg-type]  # a test gives what its hook looks at


def after(method: Method, out: Out, look: Look | None = None, at: Progress = AT) -> Step:
    """A step whose forward pass gave ``out``."""
    made = step(method, out.views, look, at)
    made.out, made.terms = out, {"base": out.loss}
    return made


def looked(hard: Hard, method: Method, v: Drawn, look: Look | None = None, low: bool = False) -> Step:
    """A step in which ``hard`` has chosen its views."""
    made = step(method, v, look, low=low)
    hard.views(made)
    return made


def forward(method: Method, v: Drawn, *hard: Hard, look: Look | None = None, at: Progress = AT) -> Step:
    """A step up to its terms, as the trainer takes it."""
    made = step(method, v, look or Look(PRESETS["eval"], (0.5,) * 3, (0.5,) * 3), at)
    train.forward(made, hard)
    return made


def sgd_step(method: Method, x: torch.Tensor, lr: float = 0.1) -> Out:
    """A step of plain gradient descent on views of the given pixels (B,V,3,S,S)."""
    out: Out = method(rendered(x))
    out.loss.mean().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for p in method.parameters():
            if p.grad is not None:
                p -= lr * p.grad
                p.grad = None
    method.after_step(after(method, out))
    return out


def falls(method: Method, lr: float = 0.05) -> None:
    """The loss falls on a batch that is seen again and again."""
    x = torch.randn(16, 1, 3, 16, 16) + 0.3 * torch.randn(16, 2, 3, 16, 16)
    losses = [float(sgd_step(method, x, lr).loss.detach().mean()) for _ in range(25)]
    assert sum(losses[-3:]) < 0.98 * sum(losses[2:5])
