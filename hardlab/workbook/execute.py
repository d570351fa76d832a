"""Runs a notebook reliably: typed parameters, atomic files, a marker that is written last."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from hardlab import registry, stopping
from hardlab.errors import HardlabError
from hardlab.files import content
from hardlab.workbook.parameters import check, read, schema
from hardlab.workbook.process_tree import ProcessTree

if TYPE_CHECKING:
    from nbformat import NotebookNode

PACKAGE = Path(__file__).resolve().parents[1]
NOTEBOOKS = PACKAGE.parent / "notebooks"
EXIT = {"done": 0, "failed": 1, "stopped": 75}  # 2, usage, is a HardlabError raised before anything starts


@dataclass(frozen=True)
class Result:
    """The outcome of a notebook. skipped: it was already done, with an intact marker."""

    name: str
    state: Literal["done", "failed", "stopped"]
    notebook: Path
    log: Path
    marker: Path
    html: Path | None
    error: str | None
    seconds: float
    skipped: bool = False

    @property
    def status(self) -> int:
        """The exit status of the command line."""
        return EXIT[self.state]

    def describe(self) -> str:
        """The outcome in words: the state, the reason, and the path."""
        if self.skipped:
            head = f"{self.name}: already done in {self.seconds:.1f} s, nothing to do."
        else:
            head = f"{self.name}: {self.state} after {self.seconds:.1f} s." + (f" {self.error}" if self.error else "")
        files = [self.html or self.notebook] if self.state == "done" else [self.notebook, self.log]
        return "\n".join([head, *(f"  {_shown(f)}" for f in files)])


def notebooks() -> list[Path]:
    """The paths of hardlab's notebooks, in order."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def find(name: str) -> Path:
    """The path of a notebook, given by its path, or by the name or number (``03``) of one of hardlab's."""
    path = Path(name)
    if path.suffix == ".ipynb":
        if not os.path.isfile(path):
            raise HardlabError(f"There is no notebook '{name}'.")
        return path
    paths = {p.stem: p for p in notebooks()}
    numbered = {stem.split("_")[0]: p for stem, p in paths.items()}
    if name not in paths and name not in numbered:
        raise registry.unknown("notebook", name, paths)
    return paths.get(name) or numbered[name]


def execute(
    path: str | Path,
    params: Mapping[str, Any] | None = None,
    *,
    out_dir: str | Path,
    timeout: float | None = None,
    report: bool = True,
    force: bool = False,
    echo: Callable[[str], object] | None = None,
) -> Result:
    """Run the notebook at ``path``; writes the executed one to ``out_dir/<name>.ipynb``, with its ``.log``.

    The last file written is ``<name>.done.json`` on success, ``<name>.failed.json`` otherwise, never both. A notebook
    is done if its kernel survived to the end, every code cell ran, and none raised, not even ``sys.exit(0)``. It is
    skipped if it was done with the same text, parameters, code and inputs (folders in ``path`` parameters), unless
    ``force``. SIGTERM, SIGINT and SIGUSR1 end it and all that it started within 20 s; training runs save a checkpoint.

    params: as for ``parameters.check``.
    timeout: seconds for the whole notebook.
    report: also write a self-contained ``<name>.html``.
    echo: called with each new piece of the log.

    Raises ``HardlabError`` before starting anything.
    """
    import nbformat

    from hardlab.workbook.html import notebook_page

    path, out = Path(path), Path(out_dir).absolute()
    typed = check(path, params or {})
    source = path.read_bytes()
    name = path.stem
    key = hashlib.sha256(source + json.dumps(typed, sort_keys=True).encode() + _code().encode()).hexdigest()
    done, failed = out / f"{name}.done.json", out / f"{name}.failed.json"
    target, log, html = out / f"{name}.ipynb", out / f"{name}.log", out / f"{name}.html"
    if not force and (earlier := _intact(done, key, target, _inputs(path, typed))) and html.exists() >= report:
        return Result(name, "done", target, log, done, html if report else None, None, earlier["seconds"], skipped=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=out))
    except OSError as e:
        raise HardlabError(f"'{out}' cannot be written ({e.strerror}); choose another output folder.") from None
    started, clock = _now(), time.monotonic()
    try:
        done.unlink(missing_ok=True)
        failed.unlink(missing_ok=True)
        (scratch / "in.ipynb").write_bytes(source)
        spec = {"parent": os.getpid(), "parameters": typed, "cwd": str(path.resolve().parent)}
        (scratch / "spec.json").write_text(json.dumps(spec))
        with stopping.requests() as stops:
            code, late = _run(scratch, log, stops, timeout, echo)
            executed = scratch / "out.ipynb"
            nb = read(executed if executed.exists() else path)
            error = _fault(nb, code, log)
            state: Literal["done", "failed", "stopped"] = "failed" if error else "done"
            if error and stops:
                state, error = "stopped", f"It was stopped by {signal.Signals(stops[0]).name}."
            elif error and late:
                error = f"It ran past the limit of {timeout:g} s."
            _annotate(nb, name, state, error, typed)
            _write(target, nbformat.writes(nb) + "\n", scratch)
            html.unlink(missing_ok=True)
            report = report and state != "stopped"  # the sender of the signal is waiting
            if report:
                _write(html, notebook_page(nb, name), scratch)
            seconds = round(time.monotonic() - clock, 2)
            marker = done if state == "done" else failed
            about = {
                "name": name,
                "state": state,
                "error": error,
                "parameters": typed,
                "key": key,
                "source_sha256": hashlib.sha256(source).hexdigest(),
                "notebook_sha256": _sha256(target),
                "code": _code(),
                "inputs": _inputs(path, typed),
                "started": started,
                "ended": _now(),
                "seconds": seconds,
            }
            _write(marker, json.dumps(about, indent=1) + "\n", scratch)
        return Result(name, state, target, log, marker, html if report else None, error, seconds)
    except OSError as e:
        raise HardlabError(f"'{e.filename or out}' cannot be written ({e.strerror}).") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(
    scratch: Path, log: Path, stops: list[int], timeout: float | None, echo: Callable[[str], object] | None
) -> tuple[int, bool]:
    """Run the child; returns its exit code and whether it timed out. No process that it started survives this call."""
    tree = ProcessTree()
    env = tree.environment() | {
        # without the user's start-up files, kernels and home folder
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "HARDLAB_PLAIN": "1",  # progress in the log, line by line
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
    }
    if "MPLCONFIGDIR" not in env and not os.access(Path(env.get("HOME", "/nowhere")), os.W_OK):
        env["MPLCONFIGDIR"] = str(scratch / "matplotlib")
    until = math.inf if timeout is None else time.monotonic() + timeout
    with open(log, "w", encoding="utf-8") as sink, open(log, encoding="utf-8", errors="replace") as tail:
        child = subprocess.Popen(
            [sys.executable, "-m", "hardlab.workbook.papermill_child", str(scratch)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        while child.poll() is None and not stops and time.monotonic() < until:
            if echo and (new := tail.read()):
                echo(new)
            time.sleep(0.1)
        late = child.poll() is None and not stops
        # even a kernel that died leaves processes behind that its cells started
        tree.end(lambda: _hosts(child), _interrupt)
        code = child.wait()
        if echo and (new := tail.read()):
            echo(new)
    return code, late


def _hosts(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of papermill and its kernel."""
    with contextlib.suppress(psutil.NoSuchProcess):
        papermill = psutil.Process(child.pid)
        if child.poll() is None:
            return [papermill, *papermill.children()]
    return []


def _interrupt(hosts: Iterable[psutil.Process]) -> None:
    """Interrupt the running cell, so that papermill saves and ends."""
    for kernel in list(hosts)[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            kernel.send_signal(signal.SIGINT)


def _ran(cell: NotebookNode) -> bool:
    return cell.execution_count is not None or not cell.source.strip()


def _fault(nb: NotebookNode, code: int, log: Path) -> str | None:
    """Why a notebook failed, from the notebook itself: papermill calls the cells of a killed kernel completed."""
    cells = [c for c in nb.cells if c.cell_type == "code"]
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                message = f"{output.ename}: {output.evalue}".strip().rstrip(":")
                return f"Code cell {number} of {len(cells)} raised {message}"
    unrun = [number for number, cell in enumerate(cells, 1) if not _ran(cell)]
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()
        place = f"before code cell {unrun[0]} of {len(cells)} had run" if unrun else "after the last cell"
        return f"The kernel or papermill ended {place} (exit code {code}): {lines[-1] if lines else 'no message'}"
    if unrun:
        return f"Code cell {unrun[0]} of {len(cells)} was never run."
    return None


def _annotate(nb: NotebookNode, name: str, state: str, error: str | None, typed: dict[str, Any]) -> None:
    """Correct papermill's metadata, and write the outcome into the notebook."""
    about = nb.metadata.get("papermill", {})
    about.update(input_path=f"{name}.ipynb", output_path=f"{name}.ipynb", parameters=typed)
    if state != "done":
        about["exception"] = True
        for cell in nb.cells:
            if cell.cell_type == "code" and not _ran(cell):
                cell.metadata.get("papermill", {})["status"] = "pending"
    nb.metadata["papermill"] = about
    nb.metadata["hardlab"] = {"state": state, "error": error}


def _write(path: Path, text: str, scratch: Path) -> None:
    """Write the file atomically; the scratch folder is on the same file system."""
    part = scratch / "part"
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _intact(marker: Path, key: str, target: Path, inputs: dict[str, str]) -> dict[str, Any] | None:
    """The marker, if it belongs to this notebook, code, parameters and inputs, and the output is unchanged."""
    try:
        about = json.loads(content(marker))
        unchanged = about["key"] == key and about["state"] == "done" and about["inputs"] == inputs
        unchanged = unchanged and isinstance(about["seconds"], int | float)
        return about if unchanged and about["notebook_sha256"] == _sha256(target) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _inputs(notebook: Path, typed: Mapping[str, Any]) -> dict[str, str]:
    """A digest of the files in each folder of a ``path`` parameter (names, sizes, times), to notice new runs."""
    files_by_parameter = {}
    for name, parameter in schema(notebook).items():
        if "path" not in parameter.type:
            continue
        value = typed.get(name, parameter.default)
        folders = [notebook.parent / v for v in (value if isinstance(value, list) else [value]) if v]
        digest = hashlib.sha256()
        for file in sorted(f for folder in folders for f in folder.rglob("*") if f.is_file()):
            about = file.stat()
            digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
        files_by_parameter[name] = digest.hexdigest()
    return files_by_parameter


@cache
def _code() -> str:
    """A digest of this package's source, committed or not."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _shown(path: Path) -> str:
    """A path, relative to the working directory if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
