"""Random values on their way through command lines, parameters cells, JSON and shells: they arrive as they left."""

from __future__ import annotations

import json
import math
import os
import random
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from hardlab import config
from hardlab.types import HardlabError
from hardlab.workbook import parameters

LONG = os.environ.get("HARDLAB_FAULTS") == "long"
SIGNS = "abzAZ019 .,:;=[]{}()<>'\"`$\\/|&*!?#%@~^-+_\n\t\r\x00\x1b\x7fäß€→🦊\u2028\ufeff"
WORDS = [
    "no", "yes", "on", "off", "true", "null", "~", "", "1e3", "0x10", "1_000", "010", "1:30", "2020-01-01", ".nan",
    ".inf", "-1", "--rung", "-", "a=b", "optim.betas=[0.9, 0.99]", "it's", '"', "'", "#", "a #b", "a: b", "[", "]", "{",
    "a,b", "$HOME", "$(ls)", "`ls`", "a;b", "*", "&", "None", "nan", "folder:/a b/c", "\\n", "%s", "{x}", "{{x}}",
]  # fmt: skip
CELL = """\
text = ""  # type: str
texts = []  # type: list[str]
numbers = []  # type: list[float]
table = {}  # type: dict
mixed = []  # type: list
share = 0.5  # type: Share
count = 1  # type: Count|None
where = "."  # type: path
"""


def text(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return rng.choice(WORDS)
    return "".join(rng.choice(SIGNS) for _ in range(rng.randint(0, 12)))


def tree(rng: random.Random, depth: int = 2) -> Any:
    """A value that JSON has."""
    kind = rng.randint(0, 7 if depth else 5)
    if kind < 2:
        return text(rng)
    if kind < 6:
        return rng.choice(
            [None, True, False, rng.randint(-(2**40), 2**40), rng.uniform(-1e3, 1e3), 1e-3, 0, -0.5, 1e300]
        )
    if kind == 6:
        return [tree(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return {text(rng): tree(rng, depth - 1) for _ in range(rng.randint(0, 3))}


def cases(n: int) -> int:
    return 10_000 if LONG else n


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cell") / "n.ipynb"
    nb = nbformat.v4.new_notebook()
    nb.cells.append(nbformat.v4.new_code_cell(CELL, metadata={"tags": ["parameters"]}))
    nbformat.write(nb, path)
    return path


def test_a_value_passes_a_command_line_and_a_shell_as_it_is(record_property: Callable[[str, object], None]) -> None:
    rng = random.Random(0)
    for case in range(cases(2000)):
        value = tree(rng)
        pair = f"optim.x={config.written(value)}"
        assert shlex.split(shlex.join([pair])) == [pair]
        parsed = config.parse([pair])["optim.x"]
        assert (parsed, json.dumps(parsed)) == (value, json.dumps(value)), (case, value)
    record_property("faults:15 values of overrides", case + 1)


def test_any_text_is_a_value_or_one_sentence(record_property: Callable[[str, object], None]) -> None:
    rng = random.Random(1)
    for _ in range(cases(2000)):
        words = text(rng) + text(rng)
        try:
            config.parse([words, f"k={words}"])
        except HardlabError as e:
            assert str(e)
    record_property("faults:15 texts of overrides", cases(2000))


def test_a_parameter_reaches_a_notebook_as_it_is_or_is_refused(
    cell: Path, record_property: Callable[[str, object], None]
) -> None:
    from papermill.translators import PythonTranslator

    rng, accepted = random.Random(2), 0
    bad: list[Any] = [math.nan, math.inf, {"a": math.nan}, [math.nan], [[math.inf]], {1: 2}, b"x", {1, 2}, object(),
                      "\ud800", {"a": "\ud800"}, 10**400, "[" * 5000, "{" * 5000, "(" * 500, [b"x"]]  # fmt: skip
    for case in range(cases(1000)):
        name = rng.choice([line.partition(" ")[0] for line in CELL.splitlines()])
        value = rng.choice(bad) if rng.random() < 0.2 else tree(rng)
        try:
            made = parameters.check(cell, {name: value})
        except HardlabError as e:
            assert name in str(e), (case, value)
            continue
        accepted += 1
        written = json.dumps(made, allow_nan=False)  # what the runner's child reads, and the notebook keeps
        assert json.loads(written) == made
        assert nbformat.writes(nbformat.v4.new_notebook(metadata={"papermill": {"parameters": made}})).encode()
        there: dict[str, Any] = {}
        exec(PythonTranslator.codify(json.loads(written)), there)
        assert there[name] == made[name], (case, value)
        if name in ("text", "table", "mixed") and not isinstance(value, str):
            assert made[name] == value
    assert accepted > cases(1000) / 10
    record_property("faults:15 notebook parameters", cases(1000))


def test_a_list_of_words_is_parted_at_its_own_commas_alone(cell: Path) -> None:
    for given, words in {
        "optim.betas=[0.9, 0.99]": ["optim.betas=[0.9, 0.99]"],
        "optim.betas=[0.9, 0.99],seed=1": ["optim.betas=[0.9, 0.99]", "seed=1"],
        "[optim.betas=[0.9, 0.99], seed=1]": ["optim.betas=[0.9, 0.99]", "seed=1"],
        '["optim.betas=[0.9, 0.99]"]': ["optim.betas=[0.9, 0.99]"],
        "local={name: x, count: 2},seed=1": ["local={name: x, count: 2}", "seed=1"],
        "data='a, b',seed=1": ["data='a, b'", "seed=1"],
        "don't,do": ["don't", "do"],
        "folder:/a (b, c)/d,e": ["folder:/a (b, c)/d", "e"],
        "": [],
    }.items():
        assert parameters.check(cell, parameters.split([f"texts={given}"])) == {"texts": words}
    texts = parameters.check(cell, {"texts": "optim.betas=[0.9, 0.99],data.classes=[no, 'true']"})["texts"]
    assert config.parse(texts) == {"optim.betas": [0.9, 0.99], "data.classes": ["no", "true"]}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("table", '{"a": NaN}'),
        ("table", '{"a": [Infinity]}'),
        ("table", "{'a': 1e999}"),
        ("table", "{1: 2}"),
        ("mixed", [math.nan]),
        ("numbers", "[NaN]"),
        ("numbers", "nan"),
        ("share", "nan"),
        ("share", "1.5"),
        ("count", "0"),
        ("text", "\ud800"),
    ],
)
def test_what_json_cannot_hold_is_refused_before_a_kernel_starts(cell: Path, name: str, given: Any) -> None:
    with pytest.raises(HardlabError, match=name):
        parameters.check(cell, {name: given})
