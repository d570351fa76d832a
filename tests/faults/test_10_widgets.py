"""Row 10: a notebook needs no widgets, progress is lines of text."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from hardlab.workbook import execute

ROOT = Path(__file__).resolve().parents[2]
WIDGETS = {"ipywidgets", "tqdm", "notebook", "jupyterlab_widgets"}
BLOCKED = "raise ImportError('no widgets here')\n"
SMALL = ["data.name=digits", "backbone.width=4", "epochs=1", "batch_size=256", "precision=fp32"]


def imported(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    return {name.partition(".")[0] for name in names}


def test_neither_the_package_nor_a_notebook_imports_a_library_of_widgets(count):
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "hardlab").rglob("*.py")}
    for path in execute.notebooks():
        cells = nbformat.read(path, 4).cells
        sources[path] = "\n".join(c.source for c in cells if c.cell_type == "code")
    assert {path.name: imported(text) & WIDGETS for path, text in sources.items() if imported(text) & WIDGETS} == {}
    assert imported("import os\nfrom tqdm.auto import tqdm") & WIDGETS == {"tqdm"}
    count("10 files without widgets", len(sources))


@pytest.mark.slow
def test_a_notebook_trains_where_no_widgets_are_installed_and_says_how_far_it_is_in_text(tmp_path, count):
    (tmp_path / "blocked").mkdir()
    for name in ("ipywidgets", "jupyterlab_widgets"):
        (tmp_path / "blocked" / f"{name}.py").write_text(BLOCKED)
    words = ["nb", "run", "01_pretrain", f"overrides={json.dumps(SMALL)}", f"runs_dir={tmp_path}/runs", "threads=1"]
    done = subprocess.run(
        [sys.executable, "-c", "from hardlab.cli import main; main()", *words, "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "blocked")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cells = nbformat.read(tmp_path / "out" / "01_pretrain.ipynb", 4).cells
    outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs]
    assert any("steps." in o.get("text", "") for o in outputs)
    assert not any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)
    assert "no widgets" not in done.stderr
    count("10 notebooks without widgets", 1)
