"""Decides which strategies and methods go together from the declarations of their classes, without loading torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from hardlab import backbones, data, needs, registry
from hardlab.config import Run, Spec
from hardlab.errors import HardlabError
from hardlab.needs import Entry, Setting


def options(kind: str, spec: Spec) -> dict[str, Any]:
    """All options of an entry: those given, and the defaults of the others."""
    return {key: p.default for key, p in registry.options(kind, spec.name).items()} | spec.options


def strategy(spec: Spec) -> SimpleNamespace:
    """What a strategy with these options declares. Raises HardlabError for a need that does not exist."""
    settings = options("strategy", spec)
    declared = needs.declared(partial(registry.attribute, "strategy", spec.name), settings.get)
    for need in declared.needs:
        if need not in needs.NEEDS:
            raise registry.unknown("need", need, needs.NEEDS, f"The strategy {spec.name!r}")
    return declared


def refusal(method: str, spec: Spec) -> str | None:
    """Why a strategy does not go with a method, according to their classes; None if they go together.

    An entry of an installed package that cannot be loaded goes with nothing.
    """
    owner, on = (registry.class_name(kind, name) for kind, name in (("strategy", spec.name), ("method", method)))
    try:
        return needs.refusal(owner, strategy(spec).needs, on, partial(registry.attribute, "method", method))
    except HardlabError as e:
        return str(e)


def check_order(names: Sequence[str], declared: Sequence[Any]) -> None:
    """Refuse strategies that do not go together, or not in this order. Raises HardlabError."""
    choosers = [name for name, h in zip(names, declared, strict=True) if h.draws]
    if len(choosers) > 1:
        raise HardlabError(f"Strategies {', '.join(choosers)} each choose the number of views: keep one of them.")
    for i, h in enumerate(declared):
        if h.adds and any(earlier.draws for earlier in declared[:i]):
            raise HardlabError(
                f"Strategy '{names[i]}' adds images, and their views are chosen too: name it before "
                f"'{choosers[0]}', which chooses."
            )
        for form in sorted(h.takes - frozenset().union(*(earlier.offers for earlier in declared[:i]))):
            raise HardlabError(
                f"Strategy '{names[i]}' takes the views that the strategy {form} made: name {form} before {names[i]} "
                "in `hard`."
            )
    owners = [name for name, h in zip(names, declared, strict=True) if h.owns_loss]
    if len(owners) > 1:
        raise HardlabError(f"Strategies {', '.join(owners)} each replace the negatives of the loss: keep one of them.")
    regroup = next((name for name, h in zip(names, declared, strict=True) if h.regroups), None)
    if regroup and owners:
        raise HardlabError(
            f"Strategy '{regroup}' changes which images are positives, and the loss of '{owners[0]}' takes one "
            "positive an image, once: keep one of them."
        )


def check(run: Run) -> None:
    """Refuse a run that its classes, or the known size of its data set, forbid. Raises HardlabError.

    ``build.check`` refuses what only built networks can tell.
    """
    declared = [strategy(spec) for spec in run.hard]
    check_order([spec.name for spec in run.hard], declared)
    for spec in run.hard:
        if (why := refusal(run.method.name, spec)) is not None:
            raise HardlabError(f"{why}{hint(run.method.name, spec, refusal)}")
    count, side = known_images(run)
    if count is not None:
        check_sizes(run, count, side, run.augments()[0][0].size)
    check_settings(run, [entry.borrows for entry in declared])
    if run.parent is not None:
        check(run.parent)


def check_network(run: Run, name: str | None, every: bool = True) -> None:
    """Refuse a network that the run's method does not have. every: whether ``all`` means all. Raises HardlabError.

    Of code of one's own only the built method tells.
    """
    names = registry.attribute("method", run.method.name, "evaluated") if run.method.source is None else [name]
    if name is not None and name not in (*names, *["all"] * every):
        raise registry.unknown("network", name, [*names, *["all"] * every], "This method")


def known_images(run: Run) -> tuple[int | None, int | None]:
    """The number of training images and a side of them; None where only loading them tells."""
    each = data.per_class(run.data.name, run.data.classes)
    if each is None:
        return None, None
    if run.data.held_out:
        each = [n - max(1, int(run.data.held_out * n + 0.5)) for n in each]
    side = run.data.size or data.KNOWN[run.data.name][1]
    return sum(int(run.data.fraction * n + 0.5) for n in each), side if side <= 96 else None


def entry(kind: str, spec: Spec) -> Entry:
    """What a configuration says of an entry."""
    return Entry(spec.name, registry.class_name(kind, spec.name), options(kind, spec))


def setting(run: Run, borrowed: bool = False) -> Setting:
    """What a run's configuration says; borrowed: as in ``Setting``."""

    large, local = run.augments()
    return Setting(
        run.id, entry("method", run.method), run.batch_size, run.epochs, run.local.count if run.local else 0,
        min(crop.size for crop in (*large, *local)), run.pixel_mean, run.pixel_std, entry("method", run.method),
        entry("backbone", run.backbone), borrowed, known_images(run)[0], setting(run.parent) if run.parent else None,
    )  # fmt: skip


def check_settings(run: Run, borrows: Sequence[bool]) -> None:
    """Refuse settings that exclude each other, by ``check_options`` and ``check_run`` of the method and the strategies.

    borrows: of each strategy, whether it replaces the method's negatives by its own. Raises HardlabError.
    """
    at = setting(run, any(borrows))
    backbones.check(at.backbone.name, at.backbone.options, at.view, run.backbone.options)
    if run.execution != "eager" and at.backbone.options.get("recompute"):
        raise HardlabError(
            f"execution={run.execution} does not go with backbone.recompute=true, which torch.compile cannot read: "
            "keep one of them."
        )
    if at.local and registry.binder("method", run.method.name, "multi_crop") == "Method":
        raise needs.no_crops(at.method.kind, at.local)
    _rules("method", run.method, at)
    for i, spec in enumerate(run.hard):
        _rules("strategy", spec, replace(at, borrowed=any(borrows[:i])))


def _rules(kind: str, spec: Spec, at: Setting) -> None:
    """Call the static methods of an entry that refuse settings, with those of its options that they name."""
    defaults = entry(kind, spec)
    for rule, first in (("check_options", ()), ("check_run", (replace(at, own=defaults),))):
        function = registry.attribute(kind, spec.name, rule)
        named = inspect.signature(function).parameters.keys() & defaults.options.keys()
        function(*first, **{key: defaults.options[key] for key in named})


def hint(method: str, spec: Spec, refused: Callable[[str, Spec], str | None]) -> str:
    """The methods that a strategy goes with, as the end of a refusal; "" if this method is among them."""
    partners = [name for name in registry.METHODS if refused(name, spec) is None]
    return f" It goes with {_either(partners)}." if partners and method not in partners else ""


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def check_sizes(run: Run, count: int, smallest: int | None, size: int) -> None:
    """Refuse a batch or a crop that these images cannot fill. Raises HardlabError.

    count: number of images. smallest: a side of the images, or None if sizes differ. size: a side of the crops.
    """
    if count < run.batch_size:
        raise HardlabError(
            f"batch_size={run.batch_size} is larger than the data set: {run.data.name} has {count} images at "
            f"fraction={run.data.fraction}; the largest batch is {count}."
        )
    if smallest is not None and size > smallest:
        raise HardlabError(
            f"augment.size={size} is larger than the images of {run.data.name} ({smallest} pixels): take at most "
            f"{smallest}, or load them larger with data.size={size}."
        )
