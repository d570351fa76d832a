"""The whole configuration of a run: frozen, strictly checked, with a stable hash."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from hardlab import augment, files, numbers, registry, rich
from hardlab.augment import Augment
from hardlab.data import path_of
from hardlab.errors import HardlabError
from hardlab.numbers import (
    Batch,
    Count,
    Decay,
    Deviation,
    Epochs,
    Few,
    Momentum,
    Natural,
    Pixels,
    Positive,
    PositiveShare,
    Rate,
    RateOrZero,
    Seed,
    Share,
)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_slips(cls, value: Any) -> Any:
        """Refuse ``seed=true``, which is not seed 1, and sets, which have no order."""
        for key, setting in value.items() if isinstance(value, dict) else ():
            field = cls.model_fields.get(key)
            numbers.ordered(key, setting)
            if isinstance(setting, bool) and field is not None and field.annotation is not bool:
                raise HardlabError(f"{key}={str(setting).lower()}: {key} is not a switch; give it a value.")
        return value


class Spec(_Strict):
    """A registry entry by name, with its options, and a digest of its source unless the code is hardlab's own."""

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
    """Add the digest of the source, unless the code is hardlab's own or the digest is known."""
    if spec.source is not None and spec.name not in registry.TABLES[kind]:
        raise HardlabError(
            f"The {kind} '{spec.name}' is your own code and is not loaded: load its file first, with "
            "`--code FILE` or hardlab.load_code(FILE)."
        )
    if spec.source is not None or spec.name not in registry.TABLES[kind]:
        return spec
    return spec.model_copy(update={"source": registry.source(kind, spec.name)})


def _typed(kind: str) -> AfterValidator:
    """Validate a ``Spec``: its entry exists; its options are converted to their types, so equal values are one run."""

    def typed(spec: Spec) -> Spec:
        spec = spec if kind == "backbone" else _traced(kind, spec)
        return spec.model_copy(update={"options": registry.check(kind, spec.name, spec.options)})

    return AfterValidator(typed)


Method = Annotated[Spec, _typed("method")]
Backbone = Annotated[Spec, _typed("backbone")]
Strategy = Annotated[Spec, _typed("strategy")]


def whole_path(name: str) -> str:
    """The name of a data set; for a folder or a pack, its absolute path, the same in every working directory."""
    kind, path = name.partition(":")[0], path_of(name)
    if path is not None and not path.strip():
        raise HardlabError(f"'{name}' names no folder: write {kind}:PATH.")
    return name if path is None else f"{kind}:{os.path.realpath(os.path.expanduser(path))}"


class Data(_Strict):
    """The images of a run: a data set by name, a stratified share of it, optionally a list of classes."""

    name: str
    fraction: PositiveShare = 1.0
    subset_seed: Seed = 0
    classes: tuple[str, ...] | None = None
    size: Pixels | None = None  # pixels of a side after loading; None = as stored
    on_broken: Literal["error", "skip"] = "error"
    held_out: Share = 0.0  # of each class, kept out of training and used as the test split

    @field_validator("name")
    @classmethod
    def _one_name(cls, name: str) -> str:
        return whole_path(name)

    @model_validator(mode="after")
    def _of_characters(self) -> Data:
        for name in (self.name, *(self.classes or ())):
            if name != name.encode(errors="replace").decode():
                raise HardlabError(
                    f"The name {name!a} is not UTF-8, so the manifest of a run cannot hold it: rename it."
                )
        return self

    @model_serializer(mode="wrap")
    def _earlier_form(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out ``held_out`` if it is 0, so that earlier runs keep their names."""
        tree: dict[str, Any] = plain(self)
        return {key: value for key, value in tree.items() if key != "held_out" or value}


class Optim(_Strict):
    """The learner's optimiser; ``lr`` is per 256 images, as in the papers."""

    name: Literal["sgd", "lars", "larc", "adam", "adamw"] = "sgd"
    lr: Rate = 0.05
    momentum: Momentum = 0.9
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    weight_decay: Decay = 1e-4
    weight_decay_end: Decay | None = None
    warmup_epochs: Epochs = 0.0
    final_lr: RateOrZero = 0.0
    warmup_from: RateOrZero = 0.0  # learning rate at the start of the warm-up, per 256 images
    schedule: Literal["cosine", "constant"] = "cosine"
    rate_by: Literal["step", "epoch"] = "step"  # how often the schedule sets the rate; MoCo, SimSiam and AdCo: by epoch
    trust: Positive = 1e-3  # LARS, LARC
    rate_of: Literal["gradient", "momentum"] = "gradient"  # LARS: what the rate multiplies; the latter in Barlow Twins
    trust_by: Literal["scale", "clip"] = "scale"  # LARC: whether the ratio scales the rate or bounds it
    exclude_bias_norm: bool = False  # no decay and no LARS adaptation on biases and norm parameters
    clip: Positive | None = None  # gradient norm
    clip_by: Literal["all", "tensor"] = "all"  # norm of all gradients together, or of each tensor


class Local(_Strict):
    """Small crops beside the large views, for methods with a multi-crop form."""

    name: str  # a preset of augment.PRESETS, one entry per crop in turn
    count: Few
    options: dict[str, Any] = Field(default_factory=dict)  # fields of Augment that replace the preset's


def _view(preset: Any) -> Any:
    """Check the name of a preset and convert the fields that replace its own; errors say what is allowed."""
    augment = _augments(preset.name, preset.options)[0]
    return preset.model_copy(update={"options": {key: getattr(augment, key) for key in preset.options}})


View = Annotated[Spec, AfterValidator(_view)]
LocalView = Annotated[Local, AfterValidator(_view)]


class Logs(_Strict):
    """How often a run writes each of its logs; nothing here changes what is learned."""

    step_every: Count = 10
    views_every: Count = 10  # steps between two logs of views; HVS paper, App. D
    views_rows: Count = 256  # images per logged step
    monitor_every: Natural = 0  # epochs between kNN monitors; 0 = never
    checkpoint_every: Count = 1  # epochs
    keep: Count = 2  # number of newest checkpoints to keep


class Run(_Strict):
    """Everything that decides the outcome of a run."""

    recipe: str = Field(pattern=r"^[\w-]+$")  # part of the folder's name
    rung: Literal["smoke", "cpu", "gpu", "paper"]
    seed: Seed = 0
    data: Data
    augment: View  # name: a preset of augment.PRESETS; options: fields of Augment that replace the preset's
    backbone: Backbone
    method: Method
    hard: tuple[Strategy, ...] = ()
    optim: Optim
    epochs: Natural
    batch_size: Batch
    pixel_mean: tuple[Share, Share, Share] = (0.485, 0.456, 0.406)  # torchvision's ImageNet statistics
    pixel_std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: machine.choose; the manifest records the choice
    channels_last: bool = True
    logs: Logs = Logs()
    local: LocalView | None = None
    parent: Run | None = None  # a run to train first, because a strategy starts from its networks
    sync_bn: bool = True  # in several processes: one BN batch over all, or one in each; norms in groups keep theirs
    execution: Literal["eager", "compile", "graphs"] = "eager"  # how networks run in a step; docs/gpu.md

    @model_validator(mode="after")
    def _names(self) -> Run:
        for spec in self.hard:
            if [s.name for s in self.hard].count(spec.name) > 1:
                raise HardlabError(f"Strategy '{spec.name}' is named twice: name it once, with the options you want.")
        if path_of(self.data.name) is None and self.data.name not in registry.DATASETS:
            if os.path.isdir(os.path.expanduser(self.data.name)):
                raise HardlabError(
                    f"'{self.data.name}' is a folder, not the name of a data set: `--data {self.data.name}` "
                    f"takes it with settings that fit it, data=folder:{self.data.name} with those of the recipe."
                )
            raise registry.unknown("data set", self.data.name, [*registry.DATASETS, "folder:PATH", "pack:PATH"])
        self.augments()
        return self

    def augments(self) -> tuple[list[Augment], list[Augment]]:
        """The augmentations of the large views and of the small crops: presets with the fields that this run replaces.

        Raises HardlabError for small crops that are larger than the large views.
        """
        large = _augments(self.augment.name, self.augment.options)
        local = _augments(self.local.name, self.local.options) if self.local else []
        for crop in local:
            if crop.size > large[0].size:
                raise HardlabError(
                    f"local.size={crop.size} is larger than the large views, which have {large[0].size} pixels."
                )
        return large, local

    def about(self) -> dict[str, str]:
        """The run in a few words a line: its parts with the options that are set, its length and its data."""
        named = [self.method.name, *(f"+ {spec.name}" for spec in self.hard)]
        options = {self.method.name: self.method.options} | {spec.name: spec.options for spec in self.hard}
        share = f"{100 * self.data.fraction:g} % of {self.data.name}" if self.data.fraction < 1 else self.data.name
        sources = [f"{spec.name} {spec.source}" for spec in (self.method, *self.hard) if spec.source]
        lines = {
            "method": " ".join(named),
            "options": "; ".join(f"{name}: {_options(settings)}" for name, settings in options.items() if settings),
            "views": f"{self.augment.name} {_options(self.augment.options)}".strip(),
            "network": f"{self.backbone.name} {_options(self.backbone.options)}".strip(),
            "data": share + (f", {100 * self.data.held_out:g} % held out" if self.data.held_out else ""),
            "length": f"{self.epochs} epochs of batches of {self.batch_size}, precision {self.precision}",
            "optimiser": f"{self.optim.name}, learning rate {self.optim.lr:g} per 256 images",
            "own code": ", ".join(sources),
            "parent": self.parent.id if self.parent else "",
        }
        return {key: text for key, text in lines.items() if text}

    def __repr__(self) -> str:
        return "\n".join([f"Run {self.id}", *(f"  {key:10} {text}" for key, text in self.about().items())])

    def _repr_html_(self) -> str:
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        rest = f"<details><summary>All settings</summary><pre>{rich.escape(text)}</pre></details>"
        return f"<p><b>{self.id}</b></p>{rich.table(self.about().items())}{rest}"

    @property
    def hash(self) -> str:
        """Hex sha256 of the canonical JSON of this configuration.

        A setting that was added in a later version counts only if it is set, so that earlier runs keep their names.
        """
        tree = without_later_defaults(self.model_dump(mode="json"))
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    @property
    def id(self) -> str:
        return f"{self.recipe}-{self.rung}-s{self.seed}-{self.hash[:10]}"

    def with_(self, overrides: Mapping[str, Any]) -> Run:
        """A copy with dotted keys replaced, e.g. ``{"optim.lr": 0.1, "hard.hvs.views": 8}``; checked as a whole.

        A parent learns from the same images, and has the run's seed unless ``parent.seed`` is given: a parent that
        several seeds share would make them dependent. With another method or other strategies it is no longer a run of
        its recipe: unless ``recipe`` is given too, ``recipes.name_of`` names it.
        """
        tree = self.model_dump(mode="json")
        for key, value in overrides.items():
            _set(tree, key, _copied(value))
            shared = key.split(".")[0] == "data" or (key == "seed" and "parent.seed" not in overrides)
            if shared and tree["parent"] is not None:
                _set(tree["parent"], key, _copied(value))
        run = make(tree)
        keys = {*overrides, *("parent.recipe" for key in overrides if key == "parent")}
        pairs = {"recipe": (run, self), "parent.recipe": (run.parent, self.parent)}
        named = {
            key: registry.name_of(before, after)
            for key, (before, after) in pairs.items()
            if key not in keys and before and after and before.composition != after.composition
        }
        return run.with_(named) if named else run

    @property
    def composition(self) -> tuple[str, ...]:
        """The names of the method and the strategies, in their order."""
        return (self.method.name, *(h.name for h in self.hard))


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={written(value)}" for key, value in options.items())


def _augments(name: str, changes: Mapping[str, Any]) -> list[Augment]:
    if name not in augment.PRESETS:
        raise registry.unknown("augmentation preset", name, augment.PRESETS)
    for key in changes:
        if key not in Augment.model_fields:
            raise registry.unknown("field", key, Augment.model_fields, "An augmentation")
    return [a.but(**changes) if changes else a for a in augment.PRESETS[name]]


_LATER: dict[str, Any] = {
    "optim.warmup_from": 0, "optim.schedule": "cosine", "optim.clip_by": "all", "optim.trust_by": "scale",
    "optim.rate_by": "step", "optim.rate_of": "gradient",
    "local": None, "parent.sync_bn": True, "parent.execution": "eager", "parent": None, "sync_bn": True,
    "execution": "eager",
}  # fmt: skip


def precision_of(manifest: Mapping[str, Any]) -> Literal["fp32", "bf16"]:
    """The precision of a run; manifests older than ``auto`` record it in the configuration alone."""
    precision: Literal["fp32", "bf16"] = manifest.get("precision") or manifest["config"]["precision"]
    return precision


def flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of a configuration; strategies are numbered by their position in the list."""
    if isinstance(value, Mapping) and (value or not key):
        return [pair for k, v in value.items() for pair in flat(v, f"{key}.{k}" if key else k)]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [pair for i, v in enumerate(value) for pair in flat(v, f"{key}.{i}")]
    return [(key, value)]


def of(manifest: Mapping[str, Any]) -> Run:
    """The configuration in a run's manifest. Raises HardlabError, which names the run, if there is none."""
    try:
        return make(manifest["config"])
    except HardlabError as e:
        why = str(e) if len(str(e)) < 300 else f"{str(e)[:150]} ... {str(e)[-140:]}"
        raise HardlabError(f"The manifest.json of {manifest.get('id')} cannot be read: {why}") from e


def read_run(path: Path) -> tuple[Run, dict[str, Any]]:
    """Configuration and manifest of a run's folder. Raises HardlabError, which names the folder or the file."""
    file = path / "manifest.json"
    if not os.path.exists(file):  # false for invalid names too
        raise HardlabError(f"{path} is not a run: it has no manifest.json.")
    about = files.read_manifest(file, need=("config", "state", "data"))
    return of({**about, "id": path}), about


def as_ran(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run with the precision that it used, also if the setting was ``auto``."""
    return {**manifest["config"], "precision": precision_of(manifest)}


def without_later_defaults(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as plain values, without settings of later versions that have their defaults."""
    out: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
    for key, default in _LATER.items():
        head, _, last = key.rpartition(".")
        node = out.get(head) if head else out
        if node and last in node and node[last] == default:
            del node[last]
    return out


class _Flow(yaml.SafeLoader):
    """Lists, mappings and quoted text of YAML, with the scalars of its core schema, version 1.2.

    YAML 1.1 would read ``no`` as false, ``2020-01-01`` as a date, ``1:30`` as 90 and 1e-3 as text.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  as in its base


_SCALARS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"|~|null|Null|NULL", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]{1,400}|0x[0-9a-fA-F]{1,400}", lambda text: int(text, 16 if text.startswith("0x") else 10)),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: _number(text.replace(".inf", "inf").replace(".nan", "nan")),
    ),
}


def _scalar(read: Callable[[str], Any], loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    return read(node.value)


for _tag, (_pattern, _read) in _SCALARS.items():
    _Flow.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), None)
    _Flow.add_constructor(f"tag:yaml.org,2002:{_tag}", partial(_scalar, _read))


def _number(text: str) -> float | int:
    """Parse a number: ``1e3`` is the whole number 1000, ``1e-3`` is 0.001."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def value(text: str) -> Any:
    """The value of text on a command line: a number, true, false, null, a list, a mapping, or else the text itself.

    Lists, mappings and quoted text are read as JSON or YAML; HardlabError if they are neither.
    """
    if text.lstrip()[:1] in ("[", "{", '"', "'"):
        try:
            with suppress(ValueError):  # JSON first, so that escapes have JSON's meaning
                return json.loads(text)
            return yaml.load(text, _Flow)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise HardlabError(f"{text} cannot be read: write a number, a name, or a list like [a, b].") from None
    for pattern, read in _SCALARS.values():
        if re.fullmatch(pattern, text.strip()):
            return read(text.strip())
    return text


def written(value_: Any) -> str:
    """The inverse of ``value``: text for a number, truth value, null, text, list or mapping."""
    if isinstance(value_, str):
        try:
            round_trips = value(value_) == value_ and value_.isprintable()
        except HardlabError:
            round_trips = False
        return value_ if round_trips else json.dumps(value_)
    return json.dumps(value_)


def parse(pairs: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """``["optim.lr=1e-3", "seed=1"]`` -> dotted keys with typed values."""
    out = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise HardlabError(f"'{pair}' is not an override: write key=value, for example optim.lr=0.1.")
        try:
            out[key] = value(text)
        except HardlabError as e:
            raise HardlabError(f"{key}={e}") from None
    return out


def settings(overrides: list[str] | tuple[str, ...], labels: tuple[str, ...]) -> dict[str, Any]:
    """As ``parse``; raises HardlabError if one of the overrides sets a label."""
    given = parse(overrides)
    for label in labels:
        if label in given:
            raise HardlabError(f"'{label}' labels the results and cannot be overridden: name another {label} instead.")
    return given


def from_here(pair: str) -> str:
    """An override ``key=value`` for a process in another working directory: folders of images get absolute paths."""
    key, _, value = pair.partition("=")
    return f"{key}={whole_path(value)}" if key in ("data", "data.name") else pair


def device(name: str) -> str:
    """Return the name of a device; HardlabError for a malformed one, and for a GPU where there is no driver for one.

    Whether a driver has a GPU, ``build.device`` asks torch.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", name):
        raise HardlabError(f"There is no device '{name}': use auto, cpu, cuda or cuda:0.")
    if name.startswith("cuda") and not gpu_driver():
        raise no_gpu(name)
    return name


def no_gpu(name: str) -> HardlabError:
    """The refusal of a GPU that is not there. name: of the device."""
    return HardlabError(f"Device '{name}' is not available, torch sees no GPU here; use auto or cpu.")


@cache
def gpu_driver() -> bool:
    """Whether a library that drives a GPU can be loaded; torch, which takes long to load, finds none without it."""
    with suppress(OSError):
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        return True
    return os.path.exists("/dev/kfd")  # AMD's, whose libraries come with torch


def threads(count: int | None, name: str = "threads") -> int | None:
    """Return a number of threads; HardlabError for less than 1, and for more than this machine can start."""
    limit = max(64, 4 * (os.cpu_count() or 1))
    if count is not None and not 1 <= count <= limit:
        raise HardlabError(f"{name}={count}: it must be a whole number from 1 to {limit} on this machine.")
    return count


def budget(text: str) -> float:
    """Parse ``6h``, ``90m``, ``1h30m`` or ``45s`` to seconds; HardlabError for anything else, and for 0."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    seconds = sum(float(x or 0) * unit for x, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0.0
    if seconds <= 0:
        raise HardlabError(f"'{text}' is no budget: write hours, minutes or seconds, such as 6h, 1h30m or 90s.")
    return seconds


def environment() -> None:
    """Refuse numbers of threads in the environment with which OpenMP crashes. Raises HardlabError."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        for text in os.environ.get(name, "").split(","):  # a list is for nested levels
            if text.strip().isdecimal():
                threads(int(text), name)


def make(tree: Mapping[str, Any]) -> Run:
    """Make a checked ``Run`` from nested plain values; HardlabError with one sentence for the first mistake."""
    try:
        return Run.model_validate(tree)
    except ValidationError as e:
        first = e.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        if first["type"] == "extra_forbidden":
            owner = _model_at(first["loc"][:-1])
            parent = f"Group '{place.rpartition('.')[0]}'" if "." in place else "A run"
            raise registry.unknown("setting", first["loc"][-1], owner.model_fields, parent) from None
        raise HardlabError(f"{place}={numbers.shown(first['input'])}: {numbers.reason(e)}.") from None


def _model_at(loc: tuple[Any, ...]) -> type[BaseModel]:
    """The model that the location of a validation error points into."""
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
            raise HardlabError(f"'{key}': this run has no parent.")
        _set(tree["parent"], ".".join(rest), value)
        return
    if not rest:
        if head in ("data", "optim") and isinstance(value, str):  # by name, like the other groups
            tree[head] = {**(tree[head] if isinstance(tree[head], dict) else {}), "name": value}
        elif head in ("augment", "backbone", "method", "local"):
            tree[head] = _as_entry(value)
        elif head == "hard" and isinstance(value, str):  # one alone
            tree[head] = [_as_entry(value)]
        elif head == "hard" and isinstance(value, list | tuple):
            tree[head] = [_as_entry(entry) for entry in value]
        else:
            tree[head] = value
        return
    if head == "hard":
        named = tree["hard"] if isinstance(tree["hard"], list) else []
        strategies = [s for s in named if isinstance(s, dict) and s.get("name") == rest[0]]
        if not tree["hard"]:
            raise HardlabError(f"'{key}': this recipe has no strategy; `hardlab pretrain --list` shows those that do.")
        if not strategies:
            names = [s["name"] for s in named if isinstance(s, dict) and isinstance(s.get("name"), str)]
            raise registry.unknown("strategy", rest[0], names, "This run")
        node, rest = strategies[0], rest[1:] or ["name"]
    else:
        node = tree[head]
    if not isinstance(node, dict) or len(rest) != 1:
        raise HardlabError(f"'{key}' is not a setting: use group.key=value; the groups are {', '.join(sorted(tree))}.")
    if isinstance(node.get("options"), dict) and rest[0] not in ("name", "options"):
        node["options"][rest[0]] = value
    else:
        node[rest[0]] = value


def _copied(value: Any) -> Any:
    """A deep copy of tables and lists, so that later keys do not change those of the caller."""
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return type(value)(_copied(v) for v in value) if type(value) in (list, tuple) else value


def _as_entry(value: Any) -> Any:
    """A new entry as a table with options, so that later keys can set them."""
    if isinstance(value, str):
        return {"name": value, "options": {}}
    return {"options": {}, **value} if isinstance(value, dict) else value
