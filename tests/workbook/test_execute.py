"""The notebook runner on tiny notebooks with real kernels; what it claims is checked on processes and files."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from made_notebooks import PARAMETERS, notebook
from processes import cwd, living, wait_for

from hardlab.types import HardlabError
from hardlab.workbook import execute


def outputs(path: Path) -> str:
    nb = nbformat.read(path, as_version=4)
    return "".join(o.get("text", "") for c in nb.cells if c.cell_type == "code" for o in c.outputs)


def left_in(folder: Path, name: str) -> set[str]:
    return {p.name.removeprefix(name) for p in folder.iterdir()}


def test_an_output_folder_that_cannot_be_made_is_named(typed: Path) -> None:
    (typed.parent / "file").write_text("")
    with pytest.raises(HardlabError, match="file"):
        execute.execute(typed, out_dir=typed.parent / "file" / "out")


@pytest.mark.slow
def test_a_done_notebook_has_its_files_is_skipped_and_runs_again_when_anything_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in put").mkdir()  # blanks and braces in paths
    out = tmp_path / "out {x}"
    source = notebook(tmp_path / "in put" / "n.ipynb", "print(repr(flag), rate)", cell=PARAMETERS)
    first = execute.execute(source, {"flag": "false", "folder": str(tmp_path / "runs")}, out_dir=out)
    assert (first.state, first.status, first.skipped, first.error) == ("done", 0, False, None)
    assert left_in(out, "n") == {".ipynb", ".log", ".html", ".done.json"}
    assert "False 0.1" in outputs(first.notebook)
    marker = json.loads(first.marker.read_text())
    assert marker["state"] == "done" and marker["parameters"]["flag"] is False and marker["started"] <= marker["ended"]
    assert "False 0.1" in first.log.read_text()
    assert "http" not in first.html.read_text().lower().replace("http://www.w3.org", "")

    class Started(Exception):
        pass

    def start(*_: object) -> None:
        raise Started

    monkeypatch.setattr(execute, "_run", start)  # from here on only whether there would be a run is asked

    def again(**overrides: str) -> bool:
        try:
            given = {"flag": "false", "folder": str(tmp_path / "runs"), **overrides}
            return not execute.execute(source, given, out_dir=out).skipped
        except Started:
            return True

    assert not again()
    keep = {p: p.read_bytes() for p in out.iterdir()}
    changes = {
        "parameters": lambda: again(rate="0.2"),
        "new runs": lambda: ((tmp_path / "runs").mkdir(), (tmp_path / "runs" / "x").write_text("1"), again())[-1],
        "the page": lambda: (first.html.unlink(), again())[-1],
        "the output": lambda: (first.notebook.write_text("{}"), again())[-1],
        "the marker": lambda: (first.marker.write_text('{"state": "done"'), again())[-1],
        "the notebook": lambda: (source.write_text(source.read_text().replace("print", "repr")), again())[-1],
    }
    for what, changed in changes.items():
        for p, content in keep.items():
            p.write_bytes(content)
        assert changed(), what
        if what == "new runs":
            (tmp_path / "runs" / "x").unlink()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        pytest.param("import sys; sys.exit(0)", "SystemExit", marks=pytest.mark.slow),
        pytest.param("import os; os._exit(0)", "ended", marks=pytest.mark.slow),
    ],
)
def test_a_notebook_that_does_not_reach_its_end_is_failed_and_kept(tmp_path: Path, cell: str, message: str) -> None:
    source = notebook(tmp_path / "n.ipynb", "print('before')", cell, "print('after')")
    result = execute.execute(source, out_dir=tmp_path / "out", report=False)
    assert (result.state, result.status) == ("failed", 1)
    # a kernel that ends by itself may answer for its cell first; then its end is noticed at the next one
    blamed = "cell [23]" if message == "ended" else "cell 2"
    assert message in result.error and re.search(blamed, result.error)
    assert left_in(tmp_path / "out", "n") == {".ipynb", ".log", ".failed.json"}
    assert json.loads(result.marker.read_text())["error"] == result.error
    kept = nbformat.read(result.notebook, as_version=4)
    nbformat.validate(kept)
    assert "before" in outputs(result.notebook) and "after" not in outputs(result.notebook)
    last = kept.cells[-1]
    assert last.execution_count is None and last.metadata.papermill.status == "pending"
    assert kept.metadata.hardlab.state == "failed" and kept.metadata.papermill.exception


TRAINER = """
import pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def save(*_):
    time.sleep(1)  # as long as a checkpoint takes
    (here / "checkpoint").write_text("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
(here / "training").write_text("")
time.sleep(300)
"""


@pytest.mark.slow
def test_a_stop_lets_training_save_ends_everybody_and_exits_75(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(TRAINER)
    source = notebook(
        tmp_path / "n.ipynb",
        """
        import subprocess, sys
        trainer = subprocess.Popen([sys.executable, "trainer.py", "."], start_new_session=True)
        """,
        "trainer.wait()",
        "open('went-on', 'w')",
    )
    code = (
        "import sys; from hardlab.workbook import execute; "
        f"sys.exit(execute.execute({str(source)!r}, out_dir={str(tmp_path / 'out')!r}).status)"
    )
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    wait_for(tmp_path / "training")
    runner.terminate()
    assert runner.wait(timeout=60) == 75
    assert (tmp_path / "checkpoint").read_text() == "saved"
    assert not (tmp_path / "went-on").exists()
    assert left_in(tmp_path / "out", "n") == {".ipynb", ".log", ".failed.json"}
    assert json.loads((tmp_path / "out" / "n.failed.json").read_text())["state"] == "stopped"
    nbformat.validate(nbformat.read(tmp_path / "out" / "n.ipynb", as_version=4))
    assert [p.cmdline() for p in living() if cwd(p) == str(tmp_path)] == []


@pytest.mark.slow
def test_a_kernel_that_dies_and_a_limit_that_passes_leave_no_process_behind(tmp_path: Path) -> None:
    start = "import subprocess, os; subprocess.Popen(['sleep', '303'], start_new_session=True)"
    killed = notebook(tmp_path / "killed.ipynb", start, "os.kill(os.getpid(), 9)")
    result = execute.execute(killed, out_dir=tmp_path / "out", report=False)
    assert result.state == "failed" and "ended" in result.error
    late = notebook(tmp_path / "late.ipynb", start, "import time; time.sleep(300)")
    result = execute.execute(late, out_dir=tmp_path / "out", report=False, timeout=8)
    assert result.state == "failed" and "8 s" in result.error
    assert [p.cmdline() for p in living() if cwd(p) == str(tmp_path)] == []


@pytest.mark.slow
def test_a_failed_notebook_succeeds_later_outside_the_main_thread_and_leaves_no_marker_or_handler(
    tmp_path: Path,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    source, states = notebook(tmp_path / "n.ipynb", "print(1)"), []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "n.failed.json").write_text("{}")
    thread = threading.Thread(
        target=lambda: states.append(execute.execute(source, out_dir=tmp_path / "out", report=False))
    )
    thread.start()
    thread.join()
    assert states[0].state == "done" and signal.getsignal(signal.SIGTERM) is before
    assert left_in(tmp_path / "out", "n") == {".ipynb", ".log", ".done.json"}
