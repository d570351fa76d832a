"""Builds the parts of a run from its configuration."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardlab import compatible, config, data, ranks, registry
from hardlab.config import Data, Run, Spec
from hardlab.data import Images
from hardlab.data.base import Absent, offline
from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.types import HardlabError
from hardlab.views import Look


def device(name: str = "auto") -> torch.device:
    """The device of this name; ``auto`` is the GPU if there is one. HardlabError for an unknown or missing device."""
    if config.device(name) == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(name)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise config.no_gpu(name)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise HardlabError(f"Device '{name}' is not available, torch sees {torch.cuda.device_count()} GPUs here.")
    return chosen


def images(
    run: Run,
    split: str = "train",
    root: str | Path | None = None,
    on: str | torch.device = "cpu",
    dry: bool = False,
) -> Images:
    """The images of a run; ``fraction`` applies to the training split only. dry: as in ``data.load``."""
    c = run.data
    if dry and _read is not None and (c, split) in _read:
        return _read[c, split]
    loaded = data.load(
        c.name,
        split,
        root=root,
        fraction=c.fraction if split == "train" else 1.0,
        subset_seed=c.subset_seed,
        classes=c.classes,
        size=c.size,
        device=str(on),
        on_broken=c.on_broken,
        held_out=c.held_out,
        workers=_decoders(),  # only large images are decoded while training
        dry=dry,
    )
    if dry and _read is not None:
        if any(of != c for of, _ in _read):  # one data set at a time
            _read.clear()
        _read[c, split] = loaded
    return loaded


def _decoders() -> int:
    """Threads or processes that decode images for this process: its share of the cores of the machine."""
    return max(1, min(16, (os.cpu_count() or 1) // ranks.here()))


_read: dict[tuple[Data, str], Images] | None = None


@contextmanager
def reading_once() -> Iterator[None]:
    """Within it, a dry reading of the data that was read last, from the same root, gives the same images again."""
    global _read
    _read = {}
    try:
        yield
    finally:
        _read = None


def look(run: Run) -> Look:
    """The augmentation of a run, large views and small crops."""
    large, local = run.augments()
    return Look(large, run.pixel_mean, run.pixel_std, local=local)


def _as_it_was(kind: str, spec: Spec) -> None:
    """Refuse the user's own code that has changed since the configuration was made."""
    digest = registry.source(kind, spec.name)
    if spec.source is not None and spec.source != digest:
        raise HardlabError(
            f"The source of {kind} '{spec.name}' is {digest} and this run's is {spec.source}: it has been edited "
            "since. Make the configuration again; it will be another run."
        )


def method(run: Run) -> Method:
    """A freshly initialised method with its crops; the caller seeds torch first."""
    _as_it_was("method", run.method)
    try:
        net: nn.Module = registry.build("backbone", run.backbone.name, run.backbone.options)
        built: Method = registry.build("method", run.method.name, run.method.options, net)
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError, IndexError) as e:  # torch's own refusals
        about = f"backbone {run.backbone.name} {run.backbone.options}, method {run.method.name} {run.method.options}"
        raise HardlabError(f"These settings make no network ({about}): {e}") from e
    built.multi_crop(run.local.count if run.local else 0)
    return built


def strategies(run: Run, on: Method | None = None) -> list[Hard]:
    """The strategies of a run, installed on a method if one is given; HardlabError for strategies that conflict."""
    for spec in run.hard:
        _as_it_was("strategy", spec)
    names = [s.name for s in run.hard]
    out: list[Hard] = [registry.build("strategy", s.name, s.options) for s in run.hard]
    for name, h in zip(names, out, strict=True):
        h.name = name
    compatible.check_order([spec.name for spec in run.hard], [h.declared() for h in out])
    if on is None:
        return out
    for spec, h in zip(run.hard, out, strict=True):
        if (why := compatible.refusal(run.method.name, spec)) is not None:
            raise HardlabError(f"{why}{compatible.hint(run.method.name, spec, compatible.refusal)}")
        try:
            h.install(on)
        except HardlabError as e:
            raise HardlabError(f"{e}{compatible.hint(run.method.name, spec, refusal)}") from None
    return out


def refusal(method: str, strategy: Spec) -> str | None:
    """Why a strategy refuses a method with its default options, or None if it accepts it.

    An entry of an installed package that cannot be loaded is refused.
    """
    with torch.device("meta"):
        try:
            if (why := compatible.refusal(method, strategy)) is not None:
                return why
            with registry.blaming("method", method):
                network = registry.attribute("method", method, "NETWORK")
                on: Method = registry.build("method", method, {}, registry.build("backbone", network, {}))
            with registry.blaming("strategy", strategy.name):
                registry.build("strategy", strategy.name, strategy.options).install(on)
        except HardlabError as e:
            return str(e)
    return None


def load(path: str | Path) -> list[tuple[str, str]]:
    """Run a Python file and register the methods and strategies that it defines; returns (kind, name) of each.

    The file is loaded as a module of that name. Raises HardlabError for a file that cannot be run or that defines none.
    """
    path = Path(path)
    registry.check_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # of a file .py
    module = importlib.util.module_from_spec(spec)
    loaded = sys.modules.get(path.stem)
    if loaded is not None and Path(str(getattr(loaded, "__file__", None))).resolve() != path.resolve():
        raise HardlabError(f"'{path}' is named like the module {path.stem}, which is already loaded: rename it.")
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        sys.modules.pop(path.stem)
        raise HardlabError(f"{path} cannot be run: {type(e).__name__}: {e}") from e
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == path.stem]
    kinds = [("method", Method), ("strategy", Hard)]
    registered = [(kind, registry.register(kind, c)) for c in classes for kind, base in kinds if issubclass(c, base)]
    if not registered:
        raise HardlabError(f"{path} defines no method or strategy: it has no subclass of Method or Hard.")
    return registered


def spec(kind: str, given: Any) -> Spec:
    """The ``Spec`` of a method or strategy, given as a name, ``Spec``, class, or instance of a strategy."""
    if isinstance(given, Hard):
        args, options = given.given
        bound = inspect.signature(type(given).__init__).bind(given, *args, **options).arguments
        return Spec(name=registry.register(kind, type(given)), options=dict(list(bound.items())[1:]))
    if isinstance(given, type) and issubclass(given, Method if kind == "method" else Hard):
        return Spec(name=registry.register(kind, given))
    if not isinstance(given, str | Mapping | Spec):
        raise HardlabError(f"{given!r} is not a {kind}: give its name, its class or, for a strategy, an instance.")
    return Spec.model_validate(given)


def check(run: Run) -> None:
    """Refuse a run that cannot be built, without making weights or reading data. Raises HardlabError.

    `config` has checked names, options and ranges before; ``compatible.check`` checks what the classes declare.
    """
    compatible.check(run)
    look(run)
    skeleton, hard = unmade(run)
    skeleton.check_look(look(run))
    if run.parent is not None:
        check(run.parent)
        networks = unmade(run.parent)[0].state_dict()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that copying on meta does nothing
            for h in hard:
                h.start_from(run.parent.id, networks)
    skeleton.check_batch(run.batch_size)
    _passes(run, skeleton)


def check_images(run: Run, root: str | Path | None = None) -> Images | None:
    """Refuse a run that its images do not allow, reading as little of them as possible; call ``check`` before.

    Returns the images, or None if they would have to be downloaded first. Raises HardlabError.
    """
    try:
        data = images(run, root=root, dry=True)
    except Absent:
        if offline():
            raise
        return None
    fits(run, data, look(run))
    skeleton, hard = unmade(run)
    # the user's own code may ask for numbers, which the device `meta` lacks
    with torch.device("meta"), suppress(NotImplementedError):
        skeleton.on_start(data, run.batch_size)
        for h in hard:
            h.on_start(data, run.batch_size)
            h.check_steps(run.epochs * (len(data) // run.batch_size), run.epochs)
    if run.parent is not None:
        check_images(run.parent, root)
    check_monitor(run, root)
    return data


def check_monitor(run: Run, root: str | Path | None = None) -> None:
    """Raise HardlabError for a kNN monitor without labelled test images, which would fail after an epoch."""
    if not run.logs.monitor_every or not run.epochs:
        return
    try:
        data = images(run, "test", root, dry=True)
    except Absent:  # it will be downloaded, or refused then
        return
    except HardlabError as e:
        raise HardlabError(f"logs.monitor_every={run.logs.monitor_every} needs test images: {e}") from e
    if bool((data.targets < 0).any()):
        raise HardlabError(
            f"logs.monitor_every={run.logs.monitor_every} needs a label per image, and {run.data.name} has none for"
            f" {int((data.targets < 0).sum())} of its test images: leave it at 0."
        )


def unmade(run: Run) -> tuple[Method, list[Hard]]:
    """The method and the strategies of a run on the device ``meta``, without numbers."""
    with torch.device("meta"):
        skeleton = method(run)
        return skeleton, strategies(run, skeleton)


@torch.no_grad()
def _passes(run: Run, skeleton: Method) -> None:
    """Refuse views that are too small for the backbone, by a forward pass of the smallest ones on ``meta``."""
    large, local = run.augments()
    size = min(crop.size for crop in (*large, *local))
    # the class, since a name can be given to another one
    key = (registry.find("backbone", run.backbone.name), run.backbone.model_dump_json(), run.batch_size, size)
    if key in _passed:
        return
    try:
        skeleton.backbone(torch.empty(run.batch_size, 3, size, size, device="meta"))
    except (RuntimeError, ValueError, ZeroDivisionError) as e:
        about = f"backbone {run.backbone.name} {run.backbone.options}"
        raise HardlabError(f"Views of {size} pixels cannot pass through {about}: {e}") from e
    _passed.add(key)


_passed: set[tuple[Callable[..., Any], str, int, int]] = set()  # backbones, batches and sizes that were tried


def matrix() -> dict[tuple[str, str], str | None]:
    """(method, strategy) -> None if the two go together, else the reason why the strategy refuses."""
    return {(m, h): refusal(m, Spec(name=h)) for m in registry.METHODS for h in registry.HARD}


def fits(run: Run, images: Images, look: Look) -> None:
    """Refuse a batch or a crop that is larger than these images allow. Raises HardlabError."""
    first = next(images.batches([torch.arange(1)])) if images.in_memory else None
    smallest = None if first is None else int(first.sizes.min())  # images in memory are of one size
    compatible.check_sizes(run, len(images), smallest, look.augment[0].size)
