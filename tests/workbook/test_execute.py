"""The notebook runner on tiny notebooks with real kernels; what it claims is checked on processes and files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from hardlab.types import HardlabError
from hardlab.workbook import execute, html, parameters
from hardlab.workbook.process_tree import MARK, ProcessTree

PARAMETERS = """\
flag = True  # type: bool  whether
rate = 0.1  # type: float  how fast
steps = 3  # type: int
names = ["a"]  # type: list[str]
counts = [1]  # type: list[int]
limit = None  # type: float|None
word = "x"  # type: str
folder = "."  # type: path
"""


def notebook(path: Path, *cells: str, cell: str | None = None) -> Path:
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    if cell is not None:
        nb.cells.append(nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]}))
    nb.cells += [nbformat.v4.new_code_cell(textwrap.dedent(c)) for c in cells]
    nbformat.write(nb, path)
    return path


def outputs(path: Path) -> str:
    nb = nbformat.read(path, as_version=4)
    return "".join(o.get("text", "") for c in nb.cells if c.cell_type == "code" for o in c.outputs)


def left_in(folder: Path, name: str) -> set[str]:
    return {p.name.removeprefix(name) for p in folder.iterdir()}


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    return notebook(tmp_path / "typed.ipynb", cell=PARAMETERS)


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
    found = parameters.check(typed, {name: text})[name]
    assert found == value
    assert type(found) is type(value)


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
    with pytest.raises(HardlabError, match=name) as said:
        parameters.check(typed, {name: bad})
    assert str(bad) in str(said.value) and kind in str(said.value)


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
    ("cell", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        pytest.param("import sys; sys.exit(0)", "SystemExit", marks=pytest.mark.slow),
        pytest.param("raise SystemExit('x')", "SystemExit", marks=pytest.mark.slow),
        pytest.param("import os; os._exit(0)", "ended", marks=pytest.mark.slow),
        pytest.param("import os; os.kill(os.getpid(), 9)", "ended", marks=pytest.mark.slow),
    ],
)
def test_a_notebook_that_does_not_reach_its_end_is_failed_and_kept(tmp_path: Path, cell: str, said: str) -> None:
    source = notebook(tmp_path / "n.ipynb", "print('before')", cell, "print('after')")
    result = execute.execute(source, out_dir=tmp_path / "out", report=False)
    assert (result.state, result.status) == ("failed", 1)
    # a kernel that ends by itself may answer for its cell first; then its end is noticed at the next one
    blamed = "cell [23]" if said == "ended" else "cell 2"
    assert said in result.error and re.search(blamed, result.error)
    assert left_in(tmp_path / "out", "n") == {".ipynb", ".log", ".failed.json"}
    assert json.loads(result.marker.read_text())["error"] == result.error
    kept = nbformat.read(result.notebook, as_version=4)
    nbformat.validate(kept)
    assert "before" in outputs(result.notebook) and "after" not in outputs(result.notebook)
    last = kept.cells[-1]
    assert last.execution_count is None and last.metadata.papermill.status == "pending"
    assert kept.metadata.hardlab.state == "failed" and kept.metadata.papermill.exception


@pytest.mark.slow
def test_a_failed_notebook_that_succeeds_later_leaves_no_failed_marker(tmp_path: Path) -> None:
    source = notebook(tmp_path / "n.ipynb", "print(1)")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "n.failed.json").write_text("{}")
    assert execute.execute(source, out_dir=tmp_path / "out", report=False).state == "done"
    assert left_in(tmp_path / "out", "n") == {".ipynb", ".log", ".done.json"}


@pytest.mark.slow
def test_a_kernel_whose_port_is_taken_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (tmp_path / "clash.py").write_text(
        textwrap.dedent(f"""
        import os, pathlib, sys
        tried = pathlib.Path({str(tmp_path / "tried")!r})
        if not tried.exists():
            tried.write_text("")
            sys.exit("zmq.error.ZMQError: Address already in use")
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *sys.argv[1:]])
        """)
    )
    argv = [sys.executable, str(tmp_path / "clash.py"), "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    source = notebook(tmp_path / "n.ipynb", "print(1)")
    result = execute.execute(source, out_dir=tmp_path / "out", report=False)
    assert (tmp_path / "tried").exists() and result.state == "done"
    assert "try 1" in result.log.read_text()


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


def test_the_end_of_a_process_tree_gives_its_roots_time_to_save_spares_their_children_and_kills_the_stubborn(
    tmp_path: Path,
) -> None:
    worker = "trap 'touch worker-told' TERM; while :; do sleep 0.05; done"
    scripts = {
        "polite": f"(exec sh -c \"{worker}\") & w=$!; trap 'sleep 0.5; touch saved; kill -9 $w; exit' TERM",
        "stubborn": "trap '' TERM INT",
    }
    tree = ProcessTree()
    for name, script in scripts.items():
        loop = f"{script}; touch {name}; while :; do sleep 0.05; done"
        # each in a session of its own and an orphan at once, as under a kernel that died
        starter = f"import subprocess; subprocess.Popen(['sh', '-c', {loop!r}], start_new_session=True)"
        subprocess.run([sys.executable, "-c", starter], cwd=tmp_path, env=tree.environment(), check=True)
        wait_for(tmp_path / name)
    tree.end(list, lambda _: None, grace=3)
    assert (tmp_path / "saved").exists() and not (tmp_path / "worker-told").exists()
    assert [p.cmdline() for p in living() if cwd(p) == str(tmp_path)] == []


def wait_for(path: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.05)


@pytest.mark.slow
def test_a_kernel_that_dies_and_a_limit_that_passes_leave_no_process_behind(tmp_path: Path) -> None:
    start = "import subprocess, os; subprocess.Popen(['sleep', '303'], start_new_session=True)"
    killed = notebook(tmp_path / "killed.ipynb", start, "os.kill(os.getpid(), 9)")
    assert execute.execute(killed, out_dir=tmp_path / "out", report=False).state == "failed"
    late = notebook(tmp_path / "late.ipynb", start, "import time; time.sleep(300)")
    result = execute.execute(late, out_dir=tmp_path / "out", report=False, timeout=15)
    assert result.state == "failed" and "15 s" in result.error
    assert [p.cmdline() for p in living() if cwd(p) == str(tmp_path)] == []


def living() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]  # none vanishes


def cwd(p: psutil.Process) -> str | None:
    try:
        return p.cwd()
    except psutil.Error:
        return None


@pytest.mark.slow
def test_outside_the_main_thread_a_notebook_runs_without_touching_the_signal_handlers(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    source, found = notebook(tmp_path / "n.ipynb", "print(1)"), []
    thread = threading.Thread(
        target=lambda: found.append(execute.execute(source, out_dir=tmp_path / "out", report=False))
    )
    thread.start()
    thread.join()
    assert found[0].state == "done" and signal.getsignal(signal.SIGTERM) is before


def test_equations_become_pictures_and_what_mathtext_does_not_know_stays_readable() -> None:
    text = r"A $\mathcal{L}(q,t)$, $$\frac{1}{2}$$ and `$x$`, \$5 or $3 and $4, $\begin{aligned}a\end{aligned}$."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    body = html.notebook_body(nb)
    assert body.count('class="math"') == 2
    assert "$x$" in body and "\\begin{aligned}" in body
    assert "http" not in body


def test_a_page_without_code_still_shows_the_outputs() -> None:
    cell = nbformat.v4.new_code_cell("secret = 1", outputs=[nbformat.v4.new_output("stream", text="shown\n")])
    body = html.notebook_body(nbformat.v4.new_notebook(cells=[cell]), code=False)
    assert "shown" in body and "secret" not in body


def test_the_mark_of_a_process_tree_is_inherited_beside_the_mark_of_an_outer_one() -> None:
    outer = ProcessTree()
    inner = ProcessTree()
    os.environ[MARK] = outer.mark
    try:
        assert inner.environment()[MARK].split(":") == [outer.mark, inner.mark]
    finally:
        del os.environ[MARK]
