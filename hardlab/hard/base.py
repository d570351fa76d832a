"""What every hard-example strategy is: five places to act, and by default it does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from hardlab.data import Images
from hardlab.methods.base import Method
from hardlab.types import Candidates, Out, Player, Progress, Views
from hardlab.views import Look


class Hard(nn.Module):
    """The baseline: every hook leaves things as they are.

    draws: large views per image to draw, 0 = as many as the method has slots; local_draws: the same for small crops.
    adds: whether it adds images to a batch, whose views others may then choose. regroups: whether it changes what is a
    positive of what, and takes the loss again for that; owns_loss: whether the method's loss is its own. weights: of
    the terms in the learner's objective (1 where a term is not named). seen: what the last selection looked at, for
    the view log.
    """

    draws = 0
    local_draws = 0
    adds = False
    regroups = False
    owns_loss = False
    weights: Mapping[str, float] = {}
    seen: Candidates | None = None

    def __init__(self) -> None:
        super().__init__()

    def install(self, method: Method) -> None:
        """Swap a part of the method, or refuse with a ``HardlabError`` that gives the reason."""

    def on_start(self, images: Images, batch_size: int, parent: Path | None) -> None:
        """Called once before training and before a checkpoint is restored. parent: folder of the run's parent."""

    def before_step(self, at: Progress) -> None:
        """Take this step's scheduled numbers: functions of ``at`` alone."""

    def views(self, v: Views, method: Method, look: Look) -> Views:
        """Choose or add what is looked at; ``v`` holds drawn views that nobody rendered yet."""
        return v

    def terms(self, out: Out, method: Method) -> Mapping[str, Tensor]:
        """Extra losses, name -> (n,)."""
        return {}

    def players(self, method: Method) -> list[Player]:
        """Whoever optimises parameters of its own."""
        return []

    def after_step(self, out: Out, method: Method, at: Progress) -> None:
        """State that moves after the optimisers."""

    def logs(self) -> Mapping[str, float]:
        """Numbers of the last step for ``metrics.jsonl``."""
        return {}

    def snapshot(self, method: Method, images: Images, look: Look) -> Mapping[str, Tensor]:
        """Arrays worth keeping at a checkpoint (negatives, images of fixed latents), in ``snapshots/``."""
        return {}
