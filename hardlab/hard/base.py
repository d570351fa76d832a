"""What every hard-example strategy is: five places to act, and by default it does nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hardlab.methods.base import Method
from hardlab.types import Candidates, Out, Player, Views
from hardlab.views import Look


class Hard(nn.Module):
    """The baseline: every hook leaves things as they are.

    draws: views per image to draw, 0 = as many as the method has slots. weights: of the terms in the learner's
    objective (1 where a term is not named). seen: what the last selection looked at, for the view log.
    """

    draws = 0
    weights: Mapping[str, float] = {}
    seen: Candidates | None = None

    def install(self, method: Method) -> None:
        """Swap a part of the method, or refuse with a ``HardlabError`` that gives the reason."""

    def views(self, v: Views, method: Method, look: Look) -> Views:
        """Choose or add what is looked at; ``v`` holds drawn views that nobody rendered yet."""
        return v

    def terms(self, out: Out, method: Method) -> Mapping[str, Tensor]:
        """Extra losses, name -> (n,)."""
        return {}

    def players(self, method: Method) -> list[Player]:
        """Whoever optimises parameters of its own."""
        return []

    def after_step(self, out: Out, method: Method, step: int) -> None:
        """State that moves after the optimisers."""
