"""The base class of hard-example strategies: hooks at the six places to act, which do nothing by default."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, Self

from torch import Tensor, nn

from hardlab import needs
from hardlab.data import Images
from hardlab.methods.base import Method, Player, Step
from hardlab.types import HardlabError, Progress
from hardlab.views import Look


class Hard(nn.Module):
    """The base class of strategies: its hooks change nothing.

    All class attributes are read from the source, without importing it.

    name: the strategy's name in the run, in metrics and in files.
    draws: large views to draw per image; 0 = as many as the method has slots.
    local_draws: small crops to draw per image; 0 = as many as the method takes.
    adds: whether it adds images to a batch, whose views other strategies may then choose.
    regroups: whether it changes which rows are positives of each other, and calls the method's loss for that.
    owns_loss: whether it replaces the method's loss, or the negatives in it.
    borrows: whether it gives the method negatives of its own.
    offers: names of forms of the views in ``Step.made`` that it makes for other strategies.
    takes: names of forms of the views that an earlier strategy must make for it.
    needs: what a method must have, by its name in ``needs.NEEDS``, with the words that complete a refusal.
    when: (option, value) -> which of these that value changes; its needs are added.
    weights: of its terms in the learner's objective, 1 by default.
    SMALL: options that make it small enough for tests.
    given: the arguments of its constructor.
    """

    draws = 0
    local_draws = 0
    adds = False
    regroups = False
    owns_loss = False
    borrows = False
    offers: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    needs: Mapping[str, str] = {}
    when: Mapping[tuple[str, Any], Mapping[str, Any]] = {}
    weights: Mapping[str, float] = {}
    SMALL: Mapping[str, Any] = {}
    given: tuple[tuple[Any, ...], dict[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__.lower()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        made = super().__new__(cls)
        made.given = args, options  # recorded in the run, to make it again
        return made

    @staticmethod
    def check_options(*args: Any, **options: Any) -> None:
        """As ``Method.check_options``."""

    @staticmethod
    def check_run(*args: Any, **options: Any) -> None:
        """As ``Method.check_run``."""

    def declared(self) -> SimpleNamespace:
        """The declarations of the strategy, with the changes made by options that are attributes of the same name."""
        return needs.declared(partial(getattr, self), lambda option: getattr(self, option, None))

    def install(self, method: Method) -> None:
        """Change a part of the method, or refuse it with a ``HardlabError``; the base class refuses unmet needs."""
        own, on = type(self).__name__, type(method).__name__
        why = needs.refusal(own, self.declared().needs, on, partial(getattr, method))
        if why is not None:
            raise HardlabError(why)

    def remark(self, method: Method) -> str | None:
        """A sentence to print when a run with this method is opened, or None."""
        return None

    def check_steps(self, steps: int, epochs: int) -> None:
        """Refuse a length of training with a ``HardlabError``; called before the first step."""

    def on_start(self, images: Images, batch_size: int) -> None:
        """Called once, before training and restoring a checkpoint, to make tensors sized by the data; or refuse.

        A dry run calls it on the device ``meta``, to see whether it refuses.
        """

    def start_from(self, parent: str, networks: Mapping[str, Tensor]) -> None:
        """Copy networks from the state of the method of the run's parent, or refuse them; called after ``on_start``.

        parent: its name for messages.
        """

    def order(self, rows: Tensor, epoch: int, images: Images, look: Look) -> Tensor:
        """Choose which images meet in the batches of an epoch: rows (S,B) of the data set -> rows (S,B).

        It is called when an epoch begins and when a run resumes within one, so it must be a function of these arguments
        and of state that does not change during an epoch.
        """
        return rows

    def before_step(self, at: Progress) -> None:
        """Set this step's scheduled numbers, functions of ``at`` alone."""

    def views(self, step: Step) -> None:
        """Choose, add to, or render ``step.views``, which usually are not rendered yet."""

    def around(self, step: Step) -> AbstractContextManager[object]:
        """A context around the method's forward pass of this step."""
        return nullcontext()

    def terms(self, step: Step) -> Mapping[str, Tensor]:
        """Additional terms of the loss: name -> (n,)."""
        return {}

    def players(self, method: Method) -> list[Player]:
        """The players of this strategy, which optimise parameters of their own."""
        return []

    def after_step(self, step: Step) -> None:
        """Update state after the optimisers' steps."""

    def logs(self, step: Step) -> Mapping[str, float]:
        """Numbers for ``metrics.jsonl`` that are computed only at logged steps; ``note`` records others."""
        return {}

    def note(self, step: Step, **numbers: Tensor | float) -> None:
        """Record numbers of this step, scalars on the device, for ``metrics.jsonl``."""
        step.numbers |= {f"{self.name}.{key}": value for key, value in numbers.items()}

    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        """Arrays to save in ``snapshots/`` at a checkpoint, such as negatives or images of fixed latents."""
        return {}

    def numbers(self, step: Step) -> dict[str, Tensor | float]:
        """All numbers of this strategy at a logged step: those from ``note``, then those from ``logs``."""
        noted = {key: x for key, x in step.numbers.items() if key.startswith(f"{self.name}.")}
        return noted | {f"{self.name}.{key}": x for key, x in self.logs(step).items()}
