"""Training in a separate process: the function that starts it from a notebook, and its entry point."""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from hardlab import build, config, files, live, machine, ranks, registry, run_folder, train
from hardlab.config import Run
from hardlab.stopping import STOPPED, Stopped
from hardlab.types import HardlabError


def launch(
    run: Run,
    runs_dir: Path | str,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    anew: bool = False,
) -> Path:
    """Train a run in a separate process and print its progress; a finished run returns at once.

    A notebook with a live front end draws its curves instead; with ``HARDLAB_PLAIN=1`` it prints lines as well.
    If the notebook's kernel is interrupted or terminated, the process gets the same signal and saves before it stops.
    It loads your own methods and strategies from their files, and refuses those of a cell. root: the folder of the data
    sets. anew: as in ``train.train``. Returns the run's folder; raises ``Stopped``, or ``HardlabError`` with the last
    message of the process.
    """
    config.device(device)
    config.threads(threads)
    runs_dir = Path(runs_dir)
    with suppress(files.DamagedFile):  # the process reports it
        if not anew and train.finished(run_folder.manifest(runs_dir / run.id), run, root):
            return runs_dir / run.id
    command = [sys.executable, "-m", "hardlab.process", "--runs", str(runs_dir), "--device", device]
    command += ["--root", str(root)] if root is not None else []
    command += ["--threads", str(threads)] if threads is not None else []
    command += ["--anew"] if anew else []
    command += [word for path in _code(run) for word in ("--code", str(path))]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )
    assert child.stdin is not None and child.stderr is not None
    line, curves = "", _Curves(run, runs_dir) if _in_notebook() else None
    try:
        child.stdin.write(json.dumps(run.model_dump(mode="json")))
        child.stdin.close()
        for line in child.stderr if curves is None else curves.beside(child.stderr):
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


def check_devices(run: Run, devices: int, device: str = "auto") -> None:
    """Refuse a number of processes that cannot share a run. Raises HardlabError."""
    ranks.check_batch(run.batch_size, devices)
    here = torch.cuda.device_count()
    if build.device(device).type == "cuda" and devices > here:
        raise HardlabError(f"--devices {devices}: torch sees {here} GPUs here; take as many, or --device cpu.")


def together(
    run: Run,
    runs_dir: Path | str,
    devices: int,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    anew: bool = False,
    code: Sequence[Path] = (),
    max_restarts: int = 0,
) -> Path:
    """Train a run in ``devices`` processes of this machine, by torchrun's launcher; returns its folder.

    A signal to this process reaches all, which save and stop. If one of them dies, the others are ended, and as often
    as ``max_restarts`` they start again from the last checkpoint. threads: of each process; default: its share of the
    cores. Raises ``Stopped``, or ``HardlabError`` after the processes have printed why.
    """
    check_devices(run, devices, device)
    share = threads or max(1, (os.cpu_count() or 1) // devices)
    words = ["-m", "hardlab.train", json.dumps(run.model_dump(mode="json"))]
    words += ["--runs", str(runs_dir), "--device", device, "--threads", str(share)]
    words += ["--root", str(root)] if root is not None else []
    words += ["--anew"] if anew else []
    words += [word for path in code for word in ("--code", str(path))]
    launched_together(words, devices, f"Training of {run.id} in {devices} processes", max_restarts)
    return Path(runs_dir) / run.id


def launched_together(words: Sequence[str], n: int, what: str, max_restarts: int = 0) -> None:
    """Run ``python WORDS`` in ``n`` processes that torchrun's launcher starts and watches.

    what: for the message. Raises ``Stopped``, or ``HardlabError`` after the processes have printed why.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    at = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=n, run_id="hardlab", max_restarts=max_restarts,
        rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1",
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
    )  # fmt: skip
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say what is wrong
    try:
        elastic_launch(at, sys.executable)(*words)
    except SignalException:
        raise Stopped from None
    except ChildFailedError as e:
        rank, first = e.get_first_failure()
        if first.exitcode == STOPPED:
            raise Stopped from None
        how = first.signal_name() if first.exitcode < 0 else f"exit {first.exitcode}"
        raise HardlabError(f"{what} failed (rank {rank}: {how}).") from None


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") and not os.environ.get("HARDLAB_PLAIN")


class _Curves:
    """The curves of a run, or of its parent as long as that is trained, in the output of a notebook's cell."""

    def __init__(self, run: Run, runs_dir: Path) -> None:
        from IPython.display import display

        self.lives = [live.Live(runs_dir / one.id) for one in (run, run.parent) if one is not None]
        self.handle = display(self.lives[0], display_id=True)

    def beside(self, lines: Iterable[str]) -> Iterator[str]:
        """Draw anew every second until the lines end; yields those that are no progress, such as alarms."""
        waiting: queue.Queue[str | None] = queue.Queue()

        def read() -> None:
            for each in lines:
                waiting.put(each)
            waiting.put(None)

        threading.Thread(target=read, daemon=True).start()
        line: str | None = ""
        while line is not None:
            with suppress(queue.Empty):
                line = waiting.get(timeout=1)
                if line is not None and " | epoch " not in line:
                    yield line
            self._draw()

    def _draw(self) -> None:
        with suppress(HardlabError):  # damaged files are the trainer's to report
            started = next((one for one in self.lives if one.read().about), self.lives[0])
            self.handle.update(started)


def _code(run: Run) -> list[Path]:
    """The files of the user's own methods and strategies in a run and its parent."""
    named = [
        (kind, spec.name)
        for one in (run, run.parent)
        if one is not None
        for kind, spec in (("method", one.method), *(("strategy", s) for s in one.hard))
    ]
    return list(dict.fromkeys(path for entry in named if (path := registry.file(*entry)) is not None))


def main(argv: list[str] | None = None) -> int:
    """``python -m hardlab.process --runs DIR``: train the run whose configuration is JSON on standard input.

    With protocols the run is then evaluated, on its own data or, by ``<protocol>@<data set>``, on another set.
    """
    parser = argparse.ArgumentParser(prog="python -m hardlab.process", description=main.__doc__)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--root", default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--protocol", dest="protocols", action="append", default=[])
    parser.add_argument("--pixels", action="store_true")
    parser.add_argument("--code", action="append", default=[], type=Path)
    args = parser.parse_args(argv)
    machine.keep_pages()
    try:
        for path in args.code:
            build.load(path)
        if config.threads(args.threads) is not None:
            torch.set_num_threads(args.threads)
        run = config.make(json.load(sys.stdin))
        path = train.train(run, args.runs, root=args.root, device=args.device, wait=args.wait, anew=args.anew)
        _evaluate(path, args)
    except Stopped:
        return STOPPED
    except HardlabError as e:
        train.say(f"hardlab: {e}")
        return 1
    return 0


def _evaluate(path: Path, args: argparse.Namespace) -> None:
    """Rows of all protocols, those of one data set together, which share its features."""
    from hardlab.evaluate.runner import evaluate_run

    on: dict[str, list[str]] = {}
    for protocol in args.protocols:
        name, _, data = protocol.partition("@")
        on.setdefault(data, []).append(name)
    for data, names in on.items():
        options = {"data": data} if data else {}
        rows = evaluate_run(path, names, options=options, pixels=args.pixels, root=args.root, device=args.device)
        for row in rows:
            train.say(f"{row['protocol']} on {row['data']}, {row['features']}: {row['metric']} {row['value']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
