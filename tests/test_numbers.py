"""Every number of every option has a range in its type, and values that mean the same are the same run."""

from __future__ import annotations

import inspect
import math
import shlex
import typing
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import WrapValidator

from hardlab import augment, build, config, data, numbers, recipes, registry
from hardlab.evaluate import finetune, linear, published
from hardlab.types import HardlabError
from hardlab.workbook import execute, parameters

CONFIGS = (config.Data, config.Optim, config.Local, config.Logs, config.Run, augment.Augment)


def bare(annotation: Any) -> list[str]:
    """The numbers in a type that stand there without a range."""
    if annotation in (int, float):
        return [annotation.__name__]
    made, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if made is typing.Literal:
        return []
    if made is Annotated:
        if any(isinstance(m, WrapValidator) and isinstance(m.func, numbers.Range) for m in parts[1:]):
            return []
        parts = parts[:1]
    return [number for part in parts for number in bare(part)]


def options() -> dict[str, Any]:
    """Where an option stands -> its type, with all that is annotated."""
    types = {f"protocols.{name}": kind for name, kind in published.TYPES.items()}
    for model in CONFIGS:
        types |= {f"{model.__name__}.{k}": t for k, t in typing.get_type_hints(model, include_extras=True).items()}
    for kind in ("method", "strategy", "backbone"):
        for name in registry.TABLES[kind]:
            types |= {f"{kind} {name}.{k}": p.annotation for k, p in registry.options(kind, name).items()}
    for path in execute.notebooks():
        for key, (declared, _) in parameters.schema(path).items():
            types[f"{path.stem}.{key}"] = eval(declared, {"path": str}, vars(numbers))
    return types


def test_every_number_of_every_option_has_a_range() -> None:
    types = options()
    assert len(types) > 250
    assert {where for where, kind in types.items() if bare(kind)} - {"Run.model_config"} == set()
    assert bare(tuple[int | None, ...]) == ["int"] and bare(dict[str, float]) == ["float"]  # the search itself


def test_every_default_and_every_published_setting_lies_in_its_range() -> None:
    for kind in ("method", "strategy", "backbone"):
        for name in registry.TABLES[kind]:
            own = {k: p.default for k, p in registry.options(kind, name).items()}
            assert registry.check(kind, name, own) == own
    for name, protocol in published.PROTOCOLS.items():
        own = {k: v for k, v in protocol.settings.items() if v is not None}
        assert published.settings(name, own) == {**published.PLACE, **protocol.settings}
        assert own.keys() <= published.TYPES.keys()


def test_the_names_that_a_setting_may_have_are_those_that_exist() -> None:
    names = {k: set(typing.get_args(published.TYPES[k])) for k in ("optimizer", "schedule")}
    assert names == {"optimizer": set(linear.OPTIMIZERS), "schedule": set(linear.SCHEDULES)}
    for function in (linear.linear_probe, finetune.finetune):
        known = inspect.signature(function).parameters
        assert {"optimizer", "schedule", "weight_decay"} <= known.keys()


@pytest.mark.parametrize(
    ("recipe", "pair"),
    [
        ("simclr", "method.temperature=-0.1"),
        ("simclr", "method.temperature=0"),
        ("simclr", "method.temperature=nan"),
        ("simclr", "method.temperature=.nan"),
        ("simclr", "method.temperature=true"),
        ("simclr", "seed=18446744073709551616"),
        ("simclr", "seed=-1"),
        ("simclr", "data.subset_seed=-1"),
        ("simclr", "optim.betas=[2, 3]"),
        ("simclr", "optim.betas=[0.9]"),
        ("simclr", "optim.trust=-5"),
        ("simclr", "optim.lr=.inf"),
        ("simclr", "optim.lr=1e400"),
        ("simclr", "optim.weight_decay_end=-1"),
        ("simclr", "pixel_std=[0, 1, 1]"),
        ("simclr", "pixel_mean=[.nan, 0, 0]"),
        ("simclr", "data.size=0"),
        ("simclr", "augment.blur=2"),
        ("simclr", "augment.jitter=[0.1, 0.1, 0.1, .inf]"),
        ("simclr", "batch_size=1"),
        ("moco", "method.queue=5.5"),
        ("moco", "method.dim=0"),
        ("hexa-moco", "hard.adversarial.epsilon=.inf"),
        ("simsiam-hvs", "hard.hvs.draws=1000000"),
        ("adco", "hard.adco.temperature=0.001"),
        ("deepcluster-6crop", "local.count=0"),
        ("simclr", "backbone.width=-3"),
    ],
)
def test_a_number_that_cannot_be_is_refused_before_anything_is_hashed(recipe: str, pair: str) -> None:
    with pytest.raises(HardlabError) as error:
        recipes.recipe(recipe, "smoke", config.parse([pair]))
    message = str(error.value)
    assert "\n" not in message and pair.partition("=")[0].rpartition(".")[2] in message, message


@pytest.mark.parametrize(
    ("recipe", "key", "values"),
    [
        ("moco", "method.momentum", [1, 1.0, "1", "1.0"]),
        ("moco", "method.temperature", [0.2, "0.2", "2e-1"]),
        ("moco", "method.queue", [256, 256.0, "256"]),
        ("moco", "optim.momentum", [0, 0.0, -0.0, "0"]),
        ("moco", "augment.blur", [0, 0.0, -0.0, "0", "0.0"]),
        ("moco", "augment.scale", [(0.5, 1), [0.5, 1.0], ["0.5", "1"]]),
        ("moco", "augment.size", [32, 32.0, "32"]),
        ("deepcluster-6crop", "local.size", [16, 16.0, "16"]),
        ("simsiam-hvs", "hard.hvs.probe_size", [16, "16", 16.0]),
        ("mined-of", "hard.mined.alpha2", [0, -0.0, "0"]),
    ],
)
def test_values_that_mean_the_same_are_one_run(recipe: str, key: str, values: list[Any]) -> None:
    run = recipes.recipe("hnssl" if recipe == "mined-of" else recipe)
    made = [run.with_({key: value}) for value in values]
    runs = [run.with_(config.parse([f"{key}={config.written(value)}"])) for value in values]
    assert len({one.id for one in made + runs}) == 1
    assert len({one.model_dump_json() for one in made + runs}) == 1


def test_threads_that_would_crash_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [config.threads(n) for n in (None, 1, 64)] == [None, 1, 64]
    for count in (0, -1, 100_000):
        with pytest.raises(HardlabError, match=f"threads={count}: it must be a whole number from 1 to"):
            config.threads(count)
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    config.environment()
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    with pytest.raises(HardlabError, match="OMP_NUM_THREADS=100000"):
        config.environment()


@pytest.mark.parametrize("low_high", [(0, 1), (1e-3, 1e3), (2, 64)])
def test_a_range_holds_exactly_its_numbers(low_high: tuple[float, float]) -> None:
    low, high = low_high
    for above in (False, True):
        for below in (False, True):
            held = numbers.Range(low, high, above, below)
            inside = [math.nextafter(low, high), (low + high) / 2, math.nextafter(high, low)]
            assert all(x in held for x in inside)
            outside = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan, math.inf, -math.inf]
            assert not any(x in held for x in outside)
            assert (low in held, high in held) == (not above, not below)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("2020-01-01", "2020-01-01"), ("1:30", "1:30"), ("1_000", "1_000"), ("010", 10),
        ("0x10", 16), ("1e3", 1000), ("1e-3", 0.001), ("~", None), ("", None), ("null", None), ("true", True),
        ("[0.9, 1e-1]", [0.9, 0.1]), ("[no, 'true', 3]", ["no", "true", 3]), ("'0.2'", "0.2"), ("a: b #c", "a: b #c"),
        ("folder:/a b/#1", "folder:/a b/#1"), ("*a", "*a"), ("!!set x", "!!set x"), ("-x", "-x"), ("a=b,c", "a=b,c"),
        ("{name: x, count: 2}", {"name": "x", "count": 2}),
    ],
)  # fmt: skip
def test_text_is_read_as_people_mean_it(text: str, value: Any) -> None:
    parsed = config.parse([f"k={text}"])["k"]
    assert (parsed, type(parsed)) == (value, type(value))


def test_the_command_of_an_arm_survives_a_shell() -> None:
    from hardlab.analysis.arms import Arm

    changes = {"optim.betas": [0.9, 0.99], "data.name": "folder:/a b/it's #1", "data.classes": ["true", "1", "é,["]}
    words = shlex.split(Arm("simclr", tuple(changes.items())).command("smoke"))
    assert words[:5] == ["hardlab", "pretrain", "simclr", "--rung", "smoke"]
    assert config.parse(words[5:]) == changes


@pytest.mark.parametrize(
    ("recipe", "pair", "message"),
    [
        ("simsiam", "batch_size=100000", "batch_size=100000 is larger than the data set: shapes has 2000 images"),
        ("simsiam", "augment.size=64", "augment.size=64 is larger than the images of shapes"),
        ("moco", "batch_size=100", "batch_size=100 does not split into method.groups=8"),
        ("moco", "method.queue=1000", "method.queue=1000 is not a multiple of the 128 keys"),
    ],
)
def test_a_dry_run_refuses_what_training_would(recipe: str, pair: str, message: str) -> None:
    with pytest.raises(HardlabError, match=message):
        build.check(recipes.recipe(recipe, "smoke", config.parse([pair])))
    build.check(recipes.recipe(recipe, "smoke", config.parse(["data.size=64", "augment.size=64"])))


@pytest.mark.parametrize("name", data.BUILT_IN)
@pytest.mark.parametrize("chosen", [None, ("1", "8"), ("disc", "ring")])
def test_sizes_that_are_known_without_loading_are_those_of_the_data(name: str, chosen: tuple[str, ...] | None) -> None:
    images = data.load(name)
    classes = [c for c in chosen or images.classes if c in images.classes]
    if classes:
        counted = [int((images.targets == images.classes.index(c)).sum()) for c in classes]
        assert data.per_class(name, chosen) == counted
    assert int(next(iter(images.all(1))).sizes.max()) == data.KNOWN[name][1]


NO_NUMBERS = [True, np.bool_(True), torch.tensor(True), b"3", bytearray(b"3"), "٣", "３", {3}, 10**5000]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda v: type(v).__name__)
def test_what_is_no_number_is_refused_on_one_line_wherever_it_is_given(value: Any) -> None:
    for refuse in (
        lambda: numbers.fit("count", numbers.Count, value),
        lambda: recipes.recipe("simsiam-hvs", "smoke", {"seed": value}),
        lambda: recipes.recipe("simsiam-hvs", "smoke", {"hard.hvs.draws": value}),
        lambda: recipes.recipe("simsiam-hvs", "smoke", {"augment.size": value}),
        lambda: published.settings("linear", {"batch_size": value}),
    ):
        with pytest.raises(HardlabError) as e:
            refuse()
        assert "\n" not in str(e.value) and len(str(e.value)) < 500


@pytest.mark.parametrize("ways", [(10, "10", "1e1", "0xA", 10.0, "10.0", " 10 ", np.int8(10), np.float32(10))])
def test_a_whole_number_is_one_run_however_it_is_spelled(ways: tuple[Any, ...]) -> None:
    for key in ("seed", "hard.hvs.draws", "logs.keep"):
        assert len({recipes.recipe("simsiam-hvs", "smoke", {key: way}).id for way in ways}) == 1
    texts = [w for w in ways if isinstance(w, str)]
    assert {config.parse([f"seed={w}"])["seed"] for w in texts if w == w.strip()} == {10}


@pytest.mark.parametrize("key", ["optim.betas", "data.classes", "augment.scale", "pixel_mean"])
def test_a_set_which_has_no_order_is_no_list(key: str) -> None:
    with pytest.raises(HardlabError, match="a set has no order; give a list"):
        recipes.recipe("simsiam", "smoke", {key: {0.2, 0.4}})


def test_classes_in_no_order_are_not_loaded() -> None:
    with pytest.raises(HardlabError, match="a set has no order"):
        data.load("digits", classes={"0", "1"})
