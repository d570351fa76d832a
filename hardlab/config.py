"""The whole configuration of a run: frozen, strict, with a stable identity."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from hardlab import augment, registry
from hardlab.augment import Augment
from hardlab.errors import HardlabError


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any) -> Any:
        """``seed=true`` is a slip, not seed 1."""
        for key, given in value.items() if isinstance(value, dict) else ():
            field = cls.model_fields.get(key)
            if isinstance(given, bool) and field is not None and field.annotation is not bool:
                raise HardlabError(f"{key}={str(given).lower()}: {key} is no switch; give it a value.")
        return value


class Spec(_Strict):
    """An entry of a registry by name, with its options; where its code is not hardlab's, with a digest of that."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    source: str | None = None

    @model_serializer(mode="wrap")
    def _no_empty_source(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = plain(self)
        return {key: value for key, value in tree.items() if key != "source" or value is not None}

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def _traced(kind: str, spec: Spec) -> Spec:
    """With the digest of its source, where it is not hardlab's own and has none yet."""
    if spec.source is not None and spec.name not in registry.TABLES[kind]:
        raise HardlabError(
            f"The {kind} '{spec.name}' is code of a reader's own that is not loaded here: load its file first, with "
            "`--code FILE` or hardlab.load(FILE)."
        )
    if spec.source is not None or spec.name not in registry.TABLES[kind]:
        return spec
    return spec.model_copy(update={"source": registry.source(kind, spec.name)})


class Data(_Strict):
    """Which images: a data set by name, a stratified share of it, optionally a class list."""

    name: str
    fraction: float = Field(default=1.0, gt=0, le=1)
    subset_seed: int = 0
    classes: tuple[str, ...] | None = None
    size: int | None = None  # resize on loading; None = as stored
    on_broken: Literal["error", "skip"] = "error"


class Optim(_Strict):
    """The learner's optimiser; ``lr`` is per 256 images, as the papers give it."""

    name: Literal["sgd", "lars", "larc", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-4, ge=0)
    weight_decay_end: float | None = None
    warmup_epochs: float = Field(default=0, ge=0)
    final_lr: float = Field(default=0, ge=0)
    warmup_from: float = Field(default=0, ge=0)  # the rate at which the warm-up starts, per 256 images
    schedule: Literal["cosine", "constant"] = "cosine"
    trust: float = 1e-3  # LARS, LARC
    trust_by: Literal["scale", "clip"] = "scale"  # LARC: the ratio scales the rate, or bounds it
    exclude_bias_norm: bool = False  # no decay and no LARS adaptation on biases and norm parameters
    clip: float | None = Field(default=None, gt=0)  # gradient norm
    clip_by: Literal["all", "tensor"] = "all"  # of all gradients together, or of each tensor by itself


class Local(_Strict):
    """Small crops beside the large views, for methods with a multi-crop form."""

    name: str  # a preset of augment.PRESETS, one entry per crop in turn
    count: int = Field(ge=1)
    options: dict[str, Any] = Field(default_factory=dict)  # fields of Augment that replace the preset's


class Logs(_Strict):
    """How often something is written; none of it changes what is learned."""

    step_every: int = Field(default=10, ge=1)
    views_every: int = Field(default=10, ge=1)  # HVS paper, App. D: a sampled slice of the run
    views_rows: int = Field(default=256, ge=1)  # images of a logged step
    monitor_every: int = Field(default=0, ge=0)  # epochs between kNN monitors; 0 = never
    checkpoint_every: int = Field(default=1, ge=1)  # epochs
    keep: int = Field(default=2, ge=1)  # newest checkpoints that stay


class Run(_Strict):
    """Everything that decides the outcome of a run."""

    recipe: str = Field(pattern=r"^[\w-]+$")  # it names the run's folder
    rung: Literal["smoke", "cpu", "gpu", "paper"]
    seed: int = 0
    data: Data
    augment: Spec  # name: a preset of augment.PRESETS; options: fields of Augment that replace the preset's
    backbone: Spec
    method: Spec
    hard: tuple[Spec, ...] = ()
    optim: Optim
    epochs: int = Field(ge=0)
    batch_size: int = Field(ge=2)
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # torchvision's ImageNet statistics
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: machine.choose; the manifest says what it became
    channels_last: bool = True
    logs: Logs = Logs()
    local: Local | None = None
    parent: Run | None = None  # a run that is trained first, because a strategy starts from its networks

    @model_validator(mode="after")
    def _names(self) -> Run:
        object.__setattr__(self, "method", _traced("method", self.method))
        object.__setattr__(self, "hard", tuple(_traced("strategy", spec) for spec in self.hard))
        registry.check("method", self.method.name, self.method.options)
        registry.check("backbone", self.backbone.name, self.backbone.options)
        for spec in self.hard:
            registry.check("strategy", spec.name, spec.options)
            if [s.name for s in self.hard].count(spec.name) > 1:
                raise HardlabError(
                    f"Strategy '{spec.name}' is named twice: one of each is enough, with the options you want."
                )
        if not self.data.name.startswith("folder:") and self.data.name not in registry.DATASETS:
            raise registry.unknown("data set", self.data.name, [*registry.DATASETS, "folder:PATH"])
        self.augments()
        return self

    def augments(self) -> tuple[list[Augment], list[Augment]]:
        """The distributions of the large views and of the small crops: presets, with the fields that this run replaces.

        Raises HardlabError for small crops that are larger than the large ones.
        """
        large = _augments(self.augment.name, self.augment.options)
        local = _augments(self.local.name, self.local.options) if self.local else []
        for crop in local:
            if crop.size > large[0].size:
                raise HardlabError(
                    f"local.size={crop.size} is larger than the large views, which have {large[0].size} pixels."
                )
        return large, local

    @property
    def hash(self) -> str:
        """Hex sha256 of the canonical JSON of this configuration.

        A setting that came later counts only where it is set, so that the runs made before it keep their names.
        """
        tree = without_later_defaults(self.model_dump(mode="json"))
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    @property
    def id(self) -> str:
        return f"{self.recipe}-{self.rung}-s{self.seed}-{self.hash[:10]}"

    def with_(self, overrides: Mapping[str, Any]) -> Run:
        """A copy with dotted keys replaced, e.g. ``{"optim.lr": 0.1, "hard.hvs.views": 8}``; checked as a whole."""
        tree = self.model_dump(mode="json")
        for key, value in overrides.items():
            _set(tree, key, value)
            if tree["parent"] is not None and key.split(".")[0] == "data":
                _set(tree["parent"], key, value)  # a parent learns from the same images
        return make(tree)


def _augments(name: str, changes: Mapping[str, Any]) -> list[Augment]:
    if name not in augment.PRESETS:
        raise registry.unknown("augmentation preset", name, augment.PRESETS)
    for key in changes:
        if key not in Augment.model_fields:
            raise registry.unknown("field of the augmentation", key, Augment.model_fields)
    return [a.but(**changes) for a in augment.PRESETS[name]]


_LATER: dict[str, Any] = {
    "optim.warmup_from": 0, "optim.schedule": "cosine", "optim.clip_by": "all", "optim.trust_by": "scale",
    "local": None, "parent": None,
}  # fmt: skip


def precision_of(manifest: Mapping[str, Any]) -> Literal["fp32", "bf16"]:
    """What a run computes in; a manifest from before there was ``auto`` says it in the configuration alone."""
    found: Literal["fp32", "bf16"] = manifest.get("precision") or manifest["config"]["precision"]
    return found


def as_ran(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run with the precision that it took, whether or not it was asked for by name."""
    return {**manifest["config"], "precision": precision_of(manifest)}


def without_later_defaults(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as plain values, without the settings that came later and are left at their defaults."""
    out: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
    for key, default in _LATER.items():
        head, _, last = key.rpartition(".")
        node = out[head] if head else out
        if last in node and node[last] == default:
            del node[last]
    return out


_FLOAT = r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"  # YAML 1.1 reads 1e-3, without a point, as text


def _number(text: str) -> float | int:
    """``1e3`` is the whole number 1000, ``1e-3`` is 0.001."""
    value = float(text)
    return int(value) if value.is_integer() else value


def parse(pairs: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """``["optim.lr=1e-3", "seed=1"]`` -> dotted keys with YAML-typed values."""
    out = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise HardlabError(f"'{pair}' is no override: write key=value, for example optim.lr=0.1.")
        try:
            out[key] = _number(text) if re.fullmatch(_FLOAT, text) else yaml.safe_load(text)
        except yaml.YAMLError:
            raise HardlabError(f"{key}={text} cannot be read: write a number, a name, or a list like [a, b].") from None
    return out


def device(name: str) -> str:
    """The name itself; HardlabError where no device is called so. Whether it is there only torch can say."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", name):
        raise HardlabError(f"There is no device '{name}': use auto, cpu, cuda or cuda:0.")
    return name


def make(tree: Mapping[str, Any]) -> Run:
    """A checked ``Run`` from nested plain values; the first mistake is told in one sentence."""
    try:
        return Run.model_validate(tree)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        if first["type"] == "extra_forbidden":
            owner = _model_at(first["loc"][:-1])
            raise registry.unknown(f"setting '{where}': no key", first["loc"][-1], owner.model_fields) from None
        raise HardlabError(f"{where}={first['input']!r}: {first['msg']}.") from None


def _model_at(loc: tuple[Any, ...]) -> type[BaseModel]:
    """The model that a location of a validation error points into."""
    named: dict[str, type[BaseModel]] = {
        "data": Data, "optim": Optim, "local": Local, "logs": Logs,
        "augment": Spec, "backbone": Spec, "method": Spec, "hard": Spec,
    }  # fmt: skip
    return named[loc[0]] if loc and loc[0] in named else Run


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key; ``method.x`` goes to the options of the method, ``hard.NAME.x`` to those of a strategy."""
    head, *rest = key.split(".")
    if head not in tree:
        raise registry.unknown("setting", head, tree)
    if head == "parent" and rest:
        if tree["parent"] is None:
            raise HardlabError(f"'{key}': this run has no parent, it starts from nothing.")
        _set(tree["parent"], ".".join(rest), value)
        return
    if not rest:
        if head in ("data", "optim") and isinstance(value, str):  # by name, like the other groups
            tree[head]["name"] = value
        else:
            tree[head] = value
        return
    if head == "hard":
        found = [s for s in tree["hard"] if s["name"] == rest[0]]
        if not tree["hard"]:
            raise HardlabError(f"'{key}': this recipe has no strategy; `hardlab pretrain --list` shows those that do.")
        if not found:
            raise registry.unknown("strategy in this run", rest[0], [s["name"] for s in tree["hard"]])
        node, rest = found[0], rest[1:] or ["name"]
    else:
        node = tree[head]
    if not isinstance(node, dict) or len(rest) != 1:
        raise HardlabError(f"'{key}' is no setting: use group.key=value, with a group of {', '.join(sorted(tree))}.")
    if "options" in node and rest[0] not in ("name", "options"):
        node["options"][rest[0]] = value
    else:
        node[rest[0]] = value
