"""What every hard-example strategy is: six places to act, and by default it does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from hardlab.data import Images
from hardlab.methods.base import Method, Player, Step
from hardlab.types import Progress
from hardlab.views import Look


class Hard(nn.Module):
    """The baseline: every hook leaves things as they are.

    name: what it is called in the run, in metrics and files. draws: large views per image to draw, 0 = as many as the
    method has slots; local_draws: the same for small crops. adds: whether it adds images to a batch, whose views others
    may then choose. regroups: whether it changes what is a positive of what, and takes the loss again for that;
    owns_loss: whether it replaces the method's loss, or the negatives in it. offers, takes: names of forms of the views
    in ``Step.made`` that it makes for others, and that an earlier strategy must make for it. weights: of the terms in
    the learner's objective (1 where a term is not named). SMALL: options for tests, under which it is small. given: the
    arguments that it was made from.
    """

    draws = 0
    local_draws = 0
    adds = False
    regroups = False
    owns_loss = False
    offers: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    weights: Mapping[str, float] = {}
    SMALL: Mapping[str, Any] = {}
    given: tuple[tuple[Any, ...], dict[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__.lower()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        made = super().__new__(cls)
        made.given = args, options  # so that a run can say how to make it again
        return made

    def install(self, method: Method) -> None:
        """Swap a part of the method, or refuse with a ``HardlabError`` that gives the reason."""

    def remark(self, method: Method) -> str | None:
        """One sentence that whoever combines it with this method should know; said when the run is opened."""
        return None

    def check_steps(self, steps: int, epochs: int) -> None:
        """Refuse a length of training with a ``HardlabError``; called before the first step."""

    def on_start(self, images: Images, batch_size: int, parent: Path | None) -> None:
        """Called once before training and before a checkpoint is restored. parent: folder of the run's parent.

        A dry run calls it without a parent, for its refusals, on a device without numbers.
        """

    def start_from(self, parent: str, networks: Mapping[str, Tensor]) -> None:
        """Take over networks of the run's parent, from its name and the state of its method, or refuse them."""

    def order(self, rows: Tensor, epoch: int, images: Images, look: Look) -> Tensor:
        """Which images meet in the batches of an epoch: rows (S,B) of the data set -> as many of them.

        Called when an epoch begins and when a run goes on within one: a function of these arguments and of state that
        stays as it is during an epoch.
        """
        return rows

    def before_step(self, at: Progress) -> None:
        """Take this step's scheduled numbers: functions of ``at`` alone."""

    def views(self, step: Step) -> None:
        """Choose, add to, or render ``step.views``, which as a rule nobody rendered yet."""

    def around(self, step: Step) -> AbstractContextManager[object]:
        """A context for the method's forward pass of this step."""
        return nullcontext()

    def terms(self, step: Step) -> Mapping[str, Tensor]:
        """Extra losses, name -> (n,)."""
        return {}

    def players(self, method: Method) -> list[Player]:
        """Whoever optimises parameters of its own."""
        return []

    def after_step(self, step: Step) -> None:
        """State that moves after the optimisers."""

    def logs(self, step: Step) -> Mapping[str, float]:
        """Further numbers for ``metrics.jsonl``, computed at logged steps alone; others go through ``note``."""
        return {}

    def note(self, step: Step, **numbers: Tensor | float) -> None:
        """Keep numbers of this step, scalars on the device, for ``metrics.jsonl``."""
        step.numbers |= {f"{self.name}.{key}": value for key, value in numbers.items()}

    def snapshot(self, method: Method, images: Images, look: Look) -> Mapping[str, Tensor]:
        """Arrays worth keeping at a checkpoint (negatives, images of fixed latents), in ``snapshots/``."""
        return {}

    def numbers(self, step: Step) -> dict[str, Tensor | float]:
        """All numbers of this strategy at a logged step: those noted on the way, then those of ``logs``."""
        noted = {key: x for key, x in step.numbers.items() if key.startswith(f"{self.name}.")}
        return noted | {f"{self.name}.{key}": x for key, x in self.logs(step).items()}
