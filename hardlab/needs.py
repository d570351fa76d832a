"""The needs of a strategy, what a run must fit, and the sentences that refuse the rest; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from hardlab.errors import HardlabError

STRATEGY = ("draws", "adds", "regroups", "owns_loss", "borrows", "offers", "takes", "needs", "when")
METHOD = ("negatives_from", "slots", "vectors", "shared", "grouped", "indexed")
# what may be needed -> whether a method has it, and the end of the sentence about one that does not
NEEDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "negatives": (lambda m: bool(m.negatives_from), "has none"),
    "batch": (lambda m: m.negatives_from == "batch", "takes none from the batch"),
    "memory": (lambda m: m.negatives_from == "memory", "keeps none of its own"),
    "vectors": (lambda m: m.vectors, "has labels that are no vectors of that space"),
    "no rows": (lambda m: not m.indexed, "looks its labels up by the row of an image in the data set"),
    "two views": (lambda m: m.slots == 2, "has {slots} large view(s)"),
    "views to compare": (lambda m: m.slots >= 2, "looks at one view of an image"),
    "groups": (lambda m: m.grouped, "takes one positive an image"),
    "two passes": (lambda m: not m.shared, "gets label and prediction in one pass"),
}


def declared(attribute: Callable[[str], Any], option: Callable[[str], Any]) -> SimpleNamespace:
    """What a strategy declares (``Hard``), with what its options change (``Hard.when``), from getters of the two."""
    out = {key: attribute(key) for key in STRATEGY}
    for (name, value), more in out.pop("when").items():
        if option(name) == value:
            added = {need: f"with {name}={value} {why}" for need, why in more.get("needs", {}).items()}
            out |= {**more, "needs": {**out["needs"], **added}}
    return SimpleNamespace(**out)


def refusal(strategy: str, needs: Mapping[str, str], method: str, attribute: Callable[[str], Any]) -> str | None:
    """Why a strategy with these needs does not go with a method, or None.

    strategy, method: their names in the sentence. attribute: a getter of the method's attributes.
    """
    facts = {key: attribute(key) for key in METHOD}
    for need, why in needs.items():
        has, lacks = NEEDS[need]
        if not has(SimpleNamespace(**facts)):
            return f"{strategy} {why}, and {method} {lacks.format(**facts)}."
    return None


def no_crops(method: str, local: int) -> HardlabError:
    """The refusal of small crops by a method, named by its class, that has no form for them."""
    return HardlabError(f"{method} has no multi-crop form: leave out local.count={local}.")


@dataclass(frozen=True)
class Entry:
    """A method, strategy or backbone of a configuration. kind: its class. options: all of them, with their defaults."""

    name: str
    kind: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What a configuration says of a run before anything is built, for ``check_run`` of a method or strategy.

    own: the method or strategy that is asked.
    local: small crops of an image.
    view: a side of the smallest view, in pixels.
    mean, std: of pixels.
    borrowed: whether a strategy has replaced the method's negatives by its own: for a method any, for a strategy an
        earlier one.
    images, steps: of the data set and of the whole training; None where only loading it tells.
    parent: the same of the run's parent.
    """

    id: str
    own: Entry
    batch_size: int
    epochs: int
    local: int
    view: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: Entry
    backbone: Entry
    borrowed: bool
    images: int | None
    parent: Setting | None = None

    @property
    def steps(self) -> int | None:
        return None if self.images is None else self.epochs * (self.images // self.batch_size)
