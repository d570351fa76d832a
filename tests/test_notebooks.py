"""Notebooks in git are thin, clean and parameterised as the runner expects."""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import tokenize
from pathlib import Path

import click
import nbformat
import pytest

from hardlab import cli, compatible, config, recipes
from hardlab.workbook import html, parameters

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def test_a_notebook_is_valid_small_and_for_the_kernel_python3(path: Path) -> None:
    nb = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(nb)
    assert nb.nbformat == 4 and nb.nbformat_minor >= 5  # cells have ids from here on
    assert nb.metadata.kernelspec.name == "python3"
    assert path.stat().st_size < 40_000
    assert re.fullmatch(r"\d\d_[a-z_]+", path.stem)


def test_a_notebook_holds_nothing_that_a_run_left(path: Path) -> None:
    nb = json.loads(path.read_text())
    assert set(nb["metadata"]) <= {"kernelspec", "language_info", "title"}
    for cell in nb["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell["id"]
        assert set(cell["metadata"]) <= {"tags"}, cell["id"]


def test_cell_ids_are_names_that_stay(path: Path) -> None:
    ids = [c["id"] for c in json.loads(path.read_text())["cells"]]
    assert len(set(ids)) == len(ids)
    assert [i for i in ids if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", i)] == []  # drawn at random by an editor


def test_one_cell_holds_the_parameters_and_comes_before_all_other_code(path: Path) -> None:
    cells = code(path)
    assert [tags(c) for c in cells].count(["parameters"]) == 1 and tags(cells[0]) == ["parameters"]
    declared = parameters.schema(path)
    typed = [t.string for t in tokenize.generate_tokens(io.StringIO(cells[0].source).readline) if "# type:" in t.string]
    assert len(typed) == len(declared) > 0


def test_a_parameter_without_an_override_passes_its_own_check(path: Path) -> None:
    for name, (_, default) in parameters.schema(path).items():
        parameters.check(path, {name: default})


def test_cells_are_short_and_define_nothing(path: Path) -> None:
    own = path.stem == "11_your_strategy"  # which shows how a class is defined in a cell
    for cell in code(path):
        lines = cell.source.splitlines()
        assert len(lines) <= 12, cell.id
        assert max(map(len, lines)) <= 120, cell.id
        for node in ast.walk(ast.parse(cell.source)):
            defines = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.While)
            assert not defines or (own and cell.id == "cell"), cell.id


def test_no_cell_trains_by_itself(path: Path) -> None:
    source = "\n".join(c.source for c in code(path))
    assert re.search(r"\.backward\(|autograd\.grad|\.step\(\)|for (epoch|step)s? in", source) is None


def test_a_step_is_taken_as_the_trainer_takes_it(path: Path) -> None:
    hooks = r"\bStep\(|\.(views|terms|perturb|before_step|after_step|objective)\(step"
    source = "\n".join(c.source for c in code(path))
    assert re.search(hooks, source) is None, "use train.begin or train.step"
    assert "open_whole(" not in source, "use train.reopen"


def test_a_notebook_begins_with_its_claim_and_ends_with_what_differs_and_what_to_try_next(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ") and "$" in cells[0].source
    assert cells[-2].cell_type == "markdown" and "What differs" in cells[-2].source
    assert cells[-1].cell_type == "markdown" and cells[-1].source.startswith("## What to try next\n\n- ")
    following = NOTEBOOKS[NOTEBOOKS.index(path) + 1 :]
    assert not following or f"Then `{following[0].stem}`" in cells[-1].source, "the notebooks are one story"


def test_what_a_notebook_says_to_try_is_there(path: Path) -> None:
    """Commands are parsed and their runs checked; settings fit the parameter that they are for."""
    text = nbformat.read(path, as_version=4).cells[-1].source
    for words in re.findall(r"`hardlab ([^`]+)`", text):
        left, command = shlex.split(words), cli.cli
        while isinstance(command, click.Group):
            name, left = left[0], left[1:]
            command = command.commands[name]
        params = command.make_context(name, left).params
        own = "emphasis" in words  # a class of the notebook's reader
        if name == "pretrain" and not own:
            compatible.check(recipes.recipe(params["recipe"], params["rung"], config.parse(params["overrides"])))
    for assigned in re.findall(r"`(\w+=[^`]+)`", text):
        (given,) = ast.parse(assigned).body
        assert isinstance(given, ast.Assign) and isinstance(given.targets[0], ast.Name)
        values = {name: p.default for name, p in parameters.schema(path).items()}
        values |= parameters.check(path, {given.targets[0].id: ast.literal_eval(given.value)})
        if "recipe" in values and "emphasis" not in assigned:
            recipes.recipe(values["recipe"], "smoke", config.parse(values.get("overrides", [])))


def test_its_equations_are_typeset_by_what_makes_the_report_too(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    page = html.notebook_body(nbformat.v4.new_notebook(cells=cells))
    signs = sum(len(re.findall(r"\$\$.+?\$\$|(?<!\$)\$(?!\$)[^$\n]+\$(?!\$)", c.source, re.S)) for c in cells)
    assert page.count('class="math"') == signs > 0
