"""Parameters of notebooks: declared types, and values that are converted or refused."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from made_notebooks import notebook

from hardlab.types import HardlabError
from hardlab.workbook import execute, parameters


def test_the_schema_is_read_from_comments_annotations_and_defaults(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", cell="a: int | None = None\nb = 'x'\nc = 1  # type: float  per epoch")
    assert parameters.schema(path) == {"a": ("int | None", None), "b": ("str", "x"), "c": ("float", 1)}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("flag", "false", False),
        ("flag", "True", True),
        ("flag", "0", False),
        ("rate", "1e-3", 0.001),
        ("rate", 1, 1.0),
        ("steps", "07", 7),
        ("word", "07", "07"),
        ("word", "none", "none"),
        ("limit", "null", None),
        ("limit", "None", None),
        ("limit", "2", 2.0),
        ("counts", "[1,2]", [1, 2]),
        ("counts", "1,2", [1, 2]),
        ("names", "['p', \"q\"]", ["p", "q"]),
        ("names", "[p, q]", ["p", "q"]),
        ("names", "lr=0.1,seed=2", ["lr=0.1", "seed=2"]),
        ("names", "[]", []),
    ],
)
def test_a_value_arrives_in_its_declared_type(typed: Path, name: str, text: object, value: object) -> None:
    parsed = parameters.check(typed, {name: text})[name]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("flag", "maybe"),
        ("flag", 2),
        ("rate", "none"),
        ("rate", "fast"),
        ("rate", True),
        ("rate", "nan"),
        ("steps", "1.5"),
        ("steps", "1e-3"),
        ("steps", 2.0),
        ("steps", None),
        ("counts", "[1, x]"),
        ("counts", 3),
        ("word", 3),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_name_the_value_and_the_type(
    typed: Path, name: str, bad: object
) -> None:
    kind = parameters.schema(typed)[name].type
    with pytest.raises(HardlabError, match=name) as error:
        parameters.check(typed, {name: bad})
    assert str(bad) in str(error.value) and kind in str(error.value)


def test_an_unknown_parameter_is_refused_with_the_nearest_name_and_nothing_is_written(typed: Path) -> None:
    with pytest.raises(HardlabError, match=r"'stepz'.*Did you mean 'steps'"):
        execute.execute(typed, {"stepz": "3"}, out_dir=typed.parent / "out")
    assert not (typed.parent / "out").exists()


def test_a_relative_path_on_the_command_line_is_meant_from_here(typed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(typed.parent)
    assert parameters.check(typed, {"folder": "runs"}) == {"folder": str(typed.parent / "runs")}


@pytest.mark.parametrize("line", ["a = 1 + b", "a = f()", "import os", "a, b = 1, 2", "a = 'x'  # type: int", "a = ("])
def test_a_parameters_cell_that_is_not_typed_literals_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(HardlabError):
        parameters.schema(notebook(tmp_path / "n.ipynb", cell=line))


def test_two_parameters_cells_are_refused(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", cell="a = 1")
    nb = nbformat.read(path, as_version=4)
    nb.cells.append(nb.cells[0].copy())
    nbformat.write(nb, path)
    with pytest.raises(HardlabError, match="2 cells"):
        parameters.schema(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": 3}', ""])
def test_a_file_that_is_no_notebook_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "n.ipynb"
    path.write_text(text)
    with pytest.raises(HardlabError, match=r"n\.ipynb"):
        execute.execute(path, out_dir=tmp_path / "out")


def test_text_without_an_equals_sign_is_no_parameter() -> None:
    assert parameters.split(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(HardlabError, match="seed"):
        parameters.split(["recipe"])
