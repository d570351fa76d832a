"""Training in a process of its own: what a notebook starts, and what runs in it."""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch

from hardlab import build, config, files, registry, run_folder, train
from hardlab.config import Run
from hardlab.stopping import STOPPED, Stopped
from hardlab.types import HardlabError


def keep_pages() -> None:
    """Tell glibc to keep freed memory: blocks over 32 MiB would be page-faulted again at every step."""
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped on its own
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is not given back
        except OSError:  # another C library: nothing to tune
            pass


def launch(
    run: Run,
    runs_dir: Path | str,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    anew: bool = False,
) -> Path:
    """Train in a process of its own and follow it line by line; a finished run is found at once.

    A notebook's kernel that is interrupted or terminated passes the request on, so that training saves first. Methods
    and strategies of the reader's own are loaded there from their files; those of a cell are refused.
    anew: as for ``train.train``. Returns the run's folder; raises ``Stopped``, or ``HardlabError`` with what the
    process said.
    """
    config.device(device)
    config.threads(threads)
    runs_dir = Path(runs_dir)
    with suppress(files.DamagedFile):  # of which the process says more
        if not anew and train.finished(run_folder.manifest(runs_dir / run.id), run, root):
            return runs_dir / run.id
    command = [sys.executable, "-m", "hardlab.process", "--runs", str(runs_dir), "--device", device]
    command += ["--root", str(root)] if root is not None else []
    command += ["--threads", str(threads)] if threads is not None else []
    command += ["--anew"] if anew else []
    command += [word for path in _code(run) for word in ("--code", str(path))]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdin is not None and child.stderr is not None
    line = ""
    try:
        child.stdin.write(json.dumps(run.model_dump(mode="json")))
        child.stdin.close()
        for line in child.stderr:
            print(line.rstrip(), flush=True)
        status = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if status == STOPPED:
        raise Stopped
    if status != 0:
        raise HardlabError(f"Training of {run.id} failed (exit {status}): {line.strip()}")
    return runs_dir / run.id


def _code(run: Run) -> list[Path]:
    """The files of the reader's own methods and strategies in a run and its parent."""
    named = [
        (kind, spec.name)
        for one in (run, run.parent)
        if one is not None
        for kind, spec in (("method", one.method), *(("strategy", s) for s in one.hard))
    ]
    return list(dict.fromkeys(path for entry in named if (path := registry.file(*entry)) is not None))


def main(argv: list[str] | None = None) -> int:
    """``python -m hardlab.process --runs DIR``: reads the configuration as JSON from standard input."""
    parser = argparse.ArgumentParser(prog="python -m hardlab.process", description=main.__doc__)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--root", default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--code", action="append", default=[], type=Path)
    args = parser.parse_args(argv)
    keep_pages()
    try:
        for path in args.code:
            build.load(path)
        if config.threads(args.threads) is not None:
            torch.set_num_threads(args.threads)
        train.train(config.make(json.load(sys.stdin)), args.runs, root=args.root, device=args.device, anew=args.anew)
    except Stopped:
        return STOPPED
    except HardlabError as e:
        train.say(f"hardlab: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
