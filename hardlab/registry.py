"""Literal tables of everything that has a name: entries are imported on use, and the contract tests iterate them."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hardlab import data, numbers, signatures
from hardlab.errors import HardlabError

METHODS = {
    "byol": "hardlab.methods.byol:BYOL",
    "supervised": "hardlab.methods.supervised:Supervised",
    "hnssl": "hardlab.methods.hnssl:HNSSL",
    "moco": "hardlab.methods.moco:MoCo",
    "simclr": "hardlab.methods.simclr:SimCLR",
    "simsiam": "hardlab.methods.simsiam:SimSiam",
    "dino": "hardlab.methods.dino:DINO",
    "ibot": "hardlab.methods.ibot:IBOT",
    "deepcluster": "hardlab.methods.deepcluster:DeepCluster",
    "gan": "hardlab.methods.gan:GAN",
    "vicreg": "hardlab.methods.vicreg:VICReg",
    "barlow": "hardlab.methods.barlow:BarlowTwins",
}
HARD = {
    "double": "hardlab.hard.double:Double",
    "adco": "hardlab.hard.adco:AdCo",
    "hvs": "hardlab.hard.hvs:HVS",
    "adversarial": "hardlab.hard.adversarial:Adversarial",
    "cutmix": "hardlab.hard.cutmix:CutMix",
    "mined": "hardlab.hard.mined:Mined",
    "iou": "hardlab.hard.iou:IoUPolicy",
    "stn": "hardlab.hard.stn:STN",
    "generated": "hardlab.hard.generated:Generated",
    "hcl": "hardlab.hard.hcl:HCL",
    "mochi": "hardlab.hard.mochi:MoCHi",
    "synco": "hardlab.hard.synco:SynCo",
    "sas": "hardlab.hard.sas:SAS",
}
DATASETS = data.SETS
BACKBONES = {
    "tiny": "hardlab.nets:Tiny",
    "resnet18": "hardlab.nets:resnet18",
    "resnet50": "hardlab.nets:resnet50",
    "resnet50x2": "hardlab.nets:resnet50x2",
    "resnet50x4": "hardlab.nets:resnet50x4",
    "resnet200": "hardlab.nets:resnet200",
    "vit_micro": "hardlab.nets:vit_micro",
    "vit_tiny": "hardlab.nets:vit_tiny",
    "vit_small": "hardlab.nets:vit_small",
    "vit_base": "hardlab.nets:vit_base",
    "biggan": "hardlab.biggan:Trunk",
}
TABLES: dict[str, dict[str, str]] = {
    "method": METHODS,
    "strategy": HARD,
    "backbone": BACKBONES,
    "data set": DATASETS,
}


GROUPS = {"hardlab.methods": "method", "hardlab.strategies": "strategy"}
_packages: dict[tuple[str, str], str] = {}  # the installed package that offers an entry
for _group, _kind in GROUPS.items():
    for _entry in importlib.metadata.entry_points(group=_group):
        if _entry.name not in TABLES[_kind]:  # no package may replace hardlab's own entries
            TABLES[_kind][_entry.name] = _entry.value
            _packages[_kind, _entry.name] = _entry.dist.name if _entry.dist else "of unknown name"

_registered: dict[tuple[str, str], type] = {}  # entries registered in this process


def register(kind: str, cls: type) -> str:
    """Register a class of your own for this process under its name in lower case, and return that name.

    kind: ``method`` or ``strategy``. A class that has a name keeps it; a new one replaces an earlier registered class
    of the same name. Raises HardlabError for the name of another entry.
    """
    path, table = f"{cls.__module__}:{cls.__qualname__}", TABLES[kind]
    registered = next((name for name, value in table.items() if value == path), None)
    name = registered or cls.__name__.lower()
    if registered is None and name in table and (kind, name) not in _registered:
        raise HardlabError(f"The {kind} '{name}' already exists ({table[name]}): rename the class {path}.")
    if not path.startswith("hardlab."):
        table[name], _registered[kind, name] = path, cls
    return name


def source(kind: str, name: str) -> str | None:
    """A digest, 16 hex digits, of the source of an entry that is not hardlab's own, so that edited code differs.

    For a class from a file or script it covers the whole file and the files of its bases; for a class from a notebook,
    its own text. None for hardlab's own entries.
    """
    path = _path(kind, name)
    if path.startswith("hardlab."):
        return None
    cls = _registered.get((kind, name))
    with blaming(kind, name):
        texts = signatures.texts(cls) if cls is not None else [signatures.text(path.partition(":")[0])]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def file(kind: str, name: str) -> Path | None:
    """The file that another process has to load for an entry, or None. Raises HardlabError for a class of a cell."""
    cls = _registered.get((kind, name))
    path = signatures.file(cls) if cls is not None else None
    if cls is not None and path is None:
        raise HardlabError(
            f"The {kind} '{name}' is defined in a cell, which another process cannot see: write it to a file and load "
            "that with hardlab.load_code(FILE), or train in this process with hardlab.train(run)."
        )
    return path


def unknown(kind: str, name: object, allowed: Iterable[str], owner: str = "") -> HardlabError:
    """The error for a name that does not exist: the name, the nearest valid one, and all allowed names.

    owner: what should have the name, e.g. "Method 'simsiam'" for an option. Case does not matter; of the names that
    begin with the given one, the shortest is the nearest.
    """
    names, lowered = sorted(allowed), str(name).lower()
    lower = {n.lower(): n for n in names}
    longer = sorted((n for n in lower if lowered and n.startswith(lowered)), key=len)
    similar = longer or difflib.get_close_matches(lowered, lower, n=1, cutoff=0.5)
    hint = f" Did you mean '{lower[similar[0]]}'?" if similar else ""
    missing = f"{owner} has no" if owner else "There is no"
    return HardlabError(f"{missing} {kind} {str(name)!r}.{hint} Allowed: {', '.join(names)}.")


@contextmanager
def blaming(kind: str, name: str) -> Iterator[None]:
    """Turn errors inside, from an entry of an installed package, into a HardlabError that names the package.

    Errors of hardlab's own code and of loaded files pass unchanged.
    """
    try:
        yield
    except HardlabError:
        raise
    except Exception as e:
        if (kind, name) not in _packages:
            raise
        raise HardlabError(
            f"The {kind} '{name}' ({_path(kind, name)}) of the installed package '{_packages[kind, name]}' cannot be "
            f"used: {type(e).__name__}: {e}. Update or uninstall that package."
        ) from e


def find(kind: str, name: str) -> Callable[..., Any]:
    """Import the object of a name. Raises HardlabError for an entry of a package that cannot be imported."""
    module, _, attribute = _path(kind, name).partition(":")
    if (kind, name) in _registered:
        return _registered[kind, name]
    with blaming(kind, name):
        return getattr(importlib.import_module(module), attribute)


def _path(kind: str, name: str) -> str:
    table = TABLES[kind]
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def check_file(path: Path) -> None:
    """Refuse a file that cannot be loaded as a module of its name. Raises HardlabError."""
    if path.suffix != ".py" or not path.stem.isidentifier() or not os.path.isfile(path):
        raise HardlabError(f"'{path}' is not a Python file with an importable name, such as my_strategy.py.")


def attribute(kind: str, name: str, key: str) -> Any:
    """The class attribute ``key`` of an entry, read without an import, as ``options``."""
    path, cls = _path(kind, name), _registered.get((kind, name))
    with blaming(kind, name):
        return signatures.attribute(path, key) if cls is None else getattr(cls, key)


def binder(kind: str, name: str, key: str) -> str:
    """The name of the class, of an entry's and its bases, that defines ``key``; nothing is imported for it either."""
    path, registered = _path(kind, name), _registered.get((kind, name))
    with blaming(kind, name):
        if registered is None:
            return signatures.binder(path, key)
        return next(cls.__name__ for cls in registered.__mro__ if key in vars(cls))


def class_name(kind: str, name: str) -> str:
    """The name of the class of an entry."""
    return _path(kind, name).rpartition(":")[2].rpartition(".")[2]


def options(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """The options of an entry: its constructor's parameters with a default, annotations evaluated.

    ``signatures`` reads them without an import, so that a wrong option shows before torch is loaded.
    """
    path, cls = _path(kind, name), _registered.get((kind, name))
    with blaming(kind, name):
        parameters = signatures.signature(path) if cls is None else signatures.inspected(cls)
    return {key: p for key, p in parameters.items() if p.default is not p.empty}


def _type(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _adapter(annotation)
    except TypeError:  # an annotation without a hash
        return _adapter.__wrapped__(annotation)


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return numbers.adapter(annotation)


def check(kind: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an entry, converted to their types. HardlabError for unknown names and values that do not fit."""
    allowed = options(kind, name)
    out = {}
    for key, value in settings.items():
        if key not in allowed:
            raise unknown("option", key, allowed, f"{kind.capitalize()} '{name}'")
        numbers.ordered(f"{kind} '{name}', option {key}", value)
        try:
            out[key] = _type(allowed[key].annotation).validate_python(value)
        except ValidationError as e:
            raise HardlabError(f"{kind} '{name}', option {key}={numbers.shown(value)}: {numbers.reason(e)}.") from None
    return out


def name_of(run: Any, before: Any) -> str:
    """The name of a run whose method or strategies are not those of ``before``; ``recipes``, imported on use, knows."""
    name: str = importlib.import_module("hardlab.recipes").name_of(run, before)
    return name


def build(kind: str, name: str, settings: Mapping[str, Any], *args: Any) -> Any:
    """Make an instance of the entry ``name`` from positional arguments and checked options."""
    return find(kind, name)(*args, **check(kind, name, settings))
