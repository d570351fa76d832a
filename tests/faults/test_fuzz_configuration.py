"""Random configurations: each is refused in one sentence, or is one run however it is written, and trains."""

from __future__ import annotations

import json
import math
import os
import random
import typing
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import WrapValidator
from small_runs import small_run

from hardlab import augment, build, config, numbers, recipes, registry, train
from hardlab.evaluate import published
from hardlab.types import HardlabError

LONG = os.environ.get("HARDLAB_FAULTS") == "long"
JUNK: list[Any] = [
    math.nan, math.inf, -math.inf, -1, 0, -0.0, 2**64, 10**400, 1e308, 5e-324, True, False, None, "", " ", "x", "0.2",
    "nan", "1e400", "0x10", "1_000", "true", "[", "{", "'", '"', "é\n\t", "\ud800", "\0", "-1", [], [1, 2], [None],
    [[]], {}, {"a": 1}, {"name": "x"}, {"name": []}, (), b"x", object(), "folder:", "folder:\0", "*a", "&a [*a]",
    "9" * 5000,
]  # fmt: skip


def keys(run: config.Run) -> dict[str, Any]:
    """Dotted key -> type, of all that can be set in a run by name."""
    types = {k: t for k, t in hints(config.Run).items() if k not in ("recipe", "rung", "parent")}
    for name in ("data", "optim", "logs"):
        types |= {f"{name}.{k}": t for k, t in hints(config.Run.model_fields[name].annotation).items()}
    types |= {f"augment.{k}": t for k, t in hints(augment.Augment).items()}
    entries = [("method", "method", run.method), ("backbone", "backbone", run.backbone)]
    entries += [("strategy", f"hard.{spec.name}", spec) for spec in run.hard]
    for kind, at, spec in entries:
        types |= {f"{at}.{k}": p.annotation for k, p in registry.options(kind, spec.name).items()}
    return types


def hints(model: Any) -> dict[str, Any]:
    types = typing.get_type_hints(model, include_extras=True)
    return {k: types[k] for k in model.model_fields}


def drawn(rng: random.Random, kind: Any, small: bool = False) -> Any:
    """A value of a type: at the ends of its range, or inside; small: of sizes only small ones."""
    made, parts = typing.get_origin(kind), typing.get_args(kind)
    if made is Annotated:
        for m in parts[1:]:
            if isinstance(m, WrapValidator) and isinstance(m.func, numbers.Range):
                return number(rng, m.func, small)
        return drawn(rng, parts[0], small)
    if made is typing.Literal:
        return rng.choice(parts)
    if made is tuple:
        each = parts[:1] * rng.randint(0, 3) if parts[-1] is ... else parts
        return [drawn(rng, part, small) for part in each]
    if parts:
        return drawn(rng, rng.choice(parts), small)
    return {bool: rng.random() < 0.5, str: "digits"}.get(kind)


def number(rng: random.Random, r: numbers.Range, small: bool) -> float:
    if r.whole:
        high = min(r.high, r.low + 6) if small else r.high
        return rng.choice([int(r.low), int(high), rng.randint(int(r.low), int(high))])
    high = min(r.high, r.low + 10)
    ends = [
        math.nextafter(r.low, high) if r.above else r.low,
        math.nextafter(r.high, 0) if r.below else r.high,
    ]
    return rng.choice([*ends, rng.uniform(r.low, high)])


def plain(value: Any) -> bool:
    """Whether a command line can say it."""
    try:
        return "\0" not in json.dumps(value, allow_nan=False).encode().decode() and "\\ud8" not in json.dumps(value)
    except (TypeError, ValueError):
        return False


def test_a_configuration_is_refused_in_one_sentence_or_is_one_run_however_it_is_written(
    record_property: Callable[[str, object], None],
) -> None:
    rng, accepted, cases = random.Random(0), 0, 10_000 if LONG else 400
    names = sorted(recipes.RECIPES)
    for case in range(cases):
        base = recipes.recipe(rng.choice(names), rng.choice(recipes.RUNGS))
        known = keys(base)
        chosen = {k: drawn(rng, known[k]) for k in rng.sample(sorted(known), rng.randint(1, 3))}
        if rng.random() < 0.5:
            chosen[rng.choice([*known, "nothing", "optim.x", "hard.x.y", "method.x", "parent.seed", "local.size"])] = (
                rng.choice(JUNK)
            )
        try:
            run = base.with_(chosen)
        except HardlabError as e:
            assert "\n" not in str(e).replace("\\n", ""), (case, chosen)
            continue
        accepted += 1
        assert config.make(json.loads(run.model_dump_json())).id == run.id, (case, chosen)
        if all(map(plain, chosen.values())):
            written = [f"{k}={config.written(v)}" for k, v in chosen.items()]
            assert base.with_(config.parse(written)).id == run.id, (case, written)
    assert accepted > cases / 10
    record_property("faults:15 configurations", cases)


def test_settings_of_a_protocol_are_refused_in_one_sentence_or_stay_as_they_are(
    record_property: Callable[[str, object], None],
) -> None:
    rng, accepted, cases = random.Random(1), 0, 10_000 if LONG else 400
    for case in range(cases):
        name = rng.choice(list(published.PROTOCOLS))
        option = rng.choice(list({**published.PLACE, **published.PROTOCOLS[name].settings}))
        value = rng.choice(JUNK) if rng.random() < 0.5 else drawn(rng, published.TYPES[option])
        try:
            made = published.settings(name, {option: value})
        except HardlabError as e:
            assert "\n" not in str(e).replace("\\n", ""), (case, name, option, value)
            continue
        accepted += 1
        json.dumps(made, allow_nan=False)
        assert published.settings(name, {option: made[option]}) == made
    assert accepted > cases / 10
    record_property("faults:15 settings of protocols", cases)


@pytest.mark.slow
def test_what_a_dry_run_accepts_trains(record_property: Callable[[str, object], None]) -> None:
    rng, trained, cases = random.Random(2), 0, 3000 if LONG else 12
    for case in range(cases):
        name = rng.choice(sorted(n for n in recipes.RECIPES if n != "untrained"))
        base = small_run(name, batch_size=16)
        known = {k: t for k, t in keys(base).items() if k.count(".") == 1 or k.startswith("hard.")}
        known = {k: t for k, t in known.items() if not k.startswith(("data.", "logs."))}
        chosen = {k: drawn(rng, known[k], small=True) for k in rng.sample(sorted(known), rng.randint(1, 3))}
        try:
            run = base.with_(chosen)
            build.check(run)
            build.check_images(run)
        except HardlabError:
            continue
        if run.parent is not None:  # whose folder a run in memory has not
            continue
        try:
            session = train.open(run, None, device="cpu", say=lambda line: None)
            for batch, _ in zip(session.batches(), range(2), strict=False):
                train.step(session, batch)
        except Exception as e:
            raise AssertionError(f"case {case}: {name} {chosen}") from e
        trained += 1
    assert trained > cases / 4
    record_property("faults:15 configurations trained", trained)
