"""Signatures read from source against those of Python's own inspection."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from hardlab import registry, signatures

ENTRIES = [(kind, name) for kind, table in registry.TABLES.items() if kind != "data set" for name in table]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_what_the_source_says_of_an_entry_is_what_python_says(kind: str, name: str) -> None:
    made = registry.find(kind, name)
    expected = inspect.signature(made, eval_str=True).parameters
    read = signatures.read(registry.TABLES[kind][name])
    assert list(read) == list(expected)
    assert [(p.kind, p.default) for p in read.values()] == [(p.kind, p.default) for p in expected.values()]
    options = [key for key, p in expected.items() if p.default is not p.empty]
    assert [read[key].annotation for key in options] == [expected[key].annotation for key in options]


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(dedent(text))
    monkeypatch.syspath_prepend(folder)


def test_annotations_and_defaults_are_read_through_aliases_imports_and_bases(tmp_path, monkeypatch) -> None:
    written(tmp_path, monkeypatch,
        quick_ranges="""
            from typing import Annotated
            from pydantic import Field
            raise_if_run = 1 / 0
            LEAST = 0.5
            Positive = Annotated[float, Field(gt=0)]
        """,
        quick_base="""
            import typing as t
            from quick_ranges import LEAST as least, Positive
            Mode = t.Literal["a", "b"]
            class Base:
                def __init__(self, net, mode: Mode = "a", *, rate: "Positive | None" = least, n: int = 2**4): ...
        """,
        quick_entry="""
            from quick_base import Base
            class Entry(Base): ...
        """,
    )  # fmt: skip
    parameters = signatures.signature("quick_entry:Entry")
    assert list(parameters) == ["net", "mode", "rate", "n"]
    assert [p.default for p in parameters.values()] == [inspect.Parameter.empty, "a", 0.5, 16]
    assert parameters["mode"].annotation.__args__ == ("a", "b")
    assert parameters["rate"].annotation.__args__[0].__metadata__[0].metadata[0].gt == 0
    assert parameters["rate"].kind is inspect.Parameter.KEYWORD_ONLY
    assert not {"quick_entry", "quick_base", "quick_ranges"} & sys.modules.keys()


@pytest.mark.parametrize(
    "text",
    [
        "import os\ndef made(a: int = len(os.sep)): ...",
        "from functools import cache\n@cache\ndef made(a: int = 1): ...",
        "def outer():\n    def made(a: int = 1): ...\n    return made\nmade = outer()",
        "from collections import UserDict\nclass made(UserDict):\n    def __new__(cls, a: int = 1): ...\n"
        "    def __init__(self, a: int = 1): ...",
        "from dataclasses import dataclass\n@dataclass\nclass made:\n    a: int = 1",
    ],
    ids=["computed", "decorated", "made", "new", "dataclass"],
)
def test_what_the_source_does_not_say_plainly_is_imported(text: str, tmp_path, monkeypatch, request) -> None:
    module = f"quick_other_{request.node.callspec.id}"
    written(tmp_path, monkeypatch, **{module: text})
    try:
        with pytest.raises(signatures.Unreadable):
            signatures.read(f"{module}:made")
        assert [(p.name, p.default, p.annotation) for p in signatures.signature(f"{module}:made").values()] == [
            ("a", 1, int)
        ]
        assert module in sys.modules
    finally:
        sys.modules.pop(module, None)


def test_a_module_that_is_loaded_answers_for_itself(tmp_path, monkeypatch) -> None:
    written(tmp_path, monkeypatch, quick_loaded="def made(a: int = 1): ...")
    import quick_loaded

    try:
        quick_loaded.made = lambda b=2: None
        assert list(signatures.signature("quick_loaded:made")) == ["b"]
    finally:
        del sys.modules["quick_loaded"]


def test_a_static_method_is_read_with_the_functions_and_values_it_uses_and_nothing_is_imported(
    tmp_path, monkeypatch
) -> None:
    written(tmp_path, monkeypatch,
        quick_rules="""
            import math
            raise_if_run = 1 / 0
            LEAST = 2**3
            def whole(x: "not evaluated", up=math.ceil): return up(x)
        """,
        quick_ruled="""
            from quick_rules import LEAST as least, whole
            class Above:
                @staticmethod
                def check(size: Absent, *, more: int = 1) -> Absent:
                    return [whole(size / least) for _ in range(more)]
                def multi(self): ...
                @cached
                def made(self): ...
            class Entry(Above): ...
        """,
    )  # fmt: skip
    check = signatures.attribute("quick_ruled:Entry", "check")
    assert check(17, more=2) == [3, 3] and list(inspect.signature(check).parameters) == ["size", "more"]
    assert signatures.binder("quick_ruled:Entry", "multi") == "Above"
    assert not {"quick_ruled", "quick_rules"} & sys.modules.keys()
    for key in ("multi", "made", "absent"):
        with pytest.raises(signatures.Unreadable):
            signatures.read_attribute("quick_ruled:Entry", key)


def test_the_class_that_defines_an_attribute_is_told_of_a_loaded_module_too(tmp_path, monkeypatch) -> None:
    text = "class Above:\n    def multi(self): ...\nclass Entry(Above): ..."
    written(tmp_path, monkeypatch, quick_bound=text)
    import quick_bound

    try:
        assert signatures.binder("quick_bound:Entry", "multi") == "Above"
        quick_bound.Entry.multi = lambda self: None
        assert signatures.binder("quick_bound:Entry", "multi") == "Entry"
    finally:
        del sys.modules["quick_bound"]
