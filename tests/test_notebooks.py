"""Notebooks in git are thin, clean and parameterised as the runner expects."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import nbformat
import pytest

from hardlab.workbook import parameters

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
    for cell in code(path):
        lines = cell.source.splitlines()
        assert len(lines) <= 12, cell.id
        assert max(map(len, lines)) <= 120, cell.id
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.While), cell.id


def test_no_cell_trains_by_itself(path: Path) -> None:
    source = "\n".join(c.source for c in code(path))
    assert re.search(r"\.backward\(|autograd\.grad|\.step\(\)|for (epoch|step)s? in", source) is None


def test_a_step_is_taken_as_the_trainer_takes_it(path: Path) -> None:
    hooks = r"\bStep\(|\.(views|terms|perturb|before_step|after_step|objective)\(step"
    source = "\n".join(c.source for c in code(path))
    assert re.search(hooks, source) is None, "use train.begin or train.step"
    assert "open_whole(" not in source, "use train.reopen"


def test_a_notebook_begins_with_its_claim_and_ends_with_what_differs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ") and "$" in cells[0].source
    assert cells[-1].cell_type == "markdown" and "What differs" in cells[-1].source
