"""Literal tables of everything that has a name; imported lazily, iterated by the contract tests."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hardlab import data, signatures
from hardlab.errors import HardlabError

METHODS = {
    "byol": "hardlab.methods.byol:BYOL",
    "supervised": "hardlab.methods.supervised:Supervised",
    "hnssl": "hardlab.methods.hnssl:HNSSL",
    "moco": "hardlab.methods.moco:MoCo",
    "simclr": "hardlab.methods.simclr:SimCLR",
    "simsiam": "hardlab.methods.simsiam:SimSiam",
    "dino": "hardlab.methods.dino:DINO",
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
    "biggan": "hardlab.gan:Trunk",
}
TABLES: dict[str, Mapping[str, str]] = {
    "method": METHODS,
    "strategy": HARD,
    "backbone": BACKBONES,
    "data set": DATASETS,
}


def unknown(kind: str, name: object, allowed: Iterable[str]) -> HardlabError:
    """The one sentence for a name that does not exist: the value, the nearest valid one, and all that is allowed.

    Case does not matter, and the shortest of the names that begin as the value does is the nearest.
    """
    names, said = sorted(allowed), str(name).lower()
    lower = {n.lower(): n for n in names}
    longer = sorted((n for n in lower if said and n.startswith(said)), key=len)
    near = longer or difflib.get_close_matches(said, lower, n=1, cutoff=0.5)
    hint = f" Did you mean '{lower[near[0]]}'?" if near else ""
    return HardlabError(f"There is no {kind} '{name}'.{hint} Allowed: {', '.join(names)}.")


def find(kind: str, name: str) -> Callable[..., Any]:
    """The object behind ``name``, imported now."""
    module, _, attribute = _path(kind, name).partition(":")
    return getattr(importlib.import_module(module), attribute)


def _path(kind: str, name: str) -> str:
    table = TABLES[kind]
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def options(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """The options of an entry: its constructor's parameters that have a default, with evaluated annotations.

    Nothing is imported for it (``signatures``), so that a slip in an option shows before torch is loaded.
    """
    return {key: p for key, p in signatures.signature(_path(kind, name)).items() if p.default is not p.empty}


def _type(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _adapter(annotation)
    except TypeError:  # what it is annotated with has no hash
        return _adapter.__wrapped__(annotation)


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def check(kind: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Typed options of an entry: unknown names and values of the wrong type are refused before anything is built."""
    known = options(kind, name)
    out = {}
    for key, value in given.items():
        if key not in known:
            raise unknown(f"option of {kind} '{name}'", key, known)
        try:
            out[key] = _type(known[key].annotation).validate_python(value)
        except ValidationError as e:
            raise HardlabError(f"{kind} '{name}', option {key}={value!r}: {e.errors()[0]['msg']}.") from None
    return out


def build(kind: str, name: str, given: Mapping[str, Any], *args: Any) -> Any:
    """Make the entry ``name`` from positional parts and checked options."""
    return find(kind, name)(*args, **check(kind, name, given))
