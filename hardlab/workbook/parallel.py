"""Shows that several processes train as one does: `hardlab doctor --parallel N`.

In double precision, where rounding stays far below any mistake: in single precision, kinks and signs make of the last
digit of a sum a difference of percents within three steps.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from hardlab import build, checkpoint, contracts, health, ranks, registry, run_folder, train
from hardlab.config import Run
from hardlab.logger import Logger
from hardlab.stopping import Stopped

STEPS = 3  # so that queues, banks, averages and schedules have been read after they were written
BOUND = 1e-5  # the largest relative difference that counts as equal
STOP = 5  # of 16 steps, in the first of two epochs


class Difference(NamedTuple):
    """The largest relative differences between processes together and one alone. same: all ranks ended alike, bitwise.

    what: a method, or a method and its strategies.
    """

    what: str
    loss: float
    gradient: float
    state: float
    same: bool

    @property
    def equal(self) -> bool:
        return self.same and max(self.loss, self.gradient, self.state) <= BOUND


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """What the code makes or turns into float32 is float64 inside."""
    usual = torch.get_default_dtype()
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(Tensor, "float", Tensor.double):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(usual)


# ----------------------------------------------------------------------------------- the same steps, together and alone


def pairs(every: bool = True) -> dict[str, Run]:
    """Small runs of every method by itself, and with every strategy that it goes with, by name.

    every: otherwise each strategy comes once, with the first method that it goes with.
    """
    together = [pair for pair, why in build.matrix().items() if why is None]
    if not every:
        together = [next(pair for pair in together if pair[1] == h) for h in registry.HARD]
    names: list[tuple[str, ...]] = [(m,) for m in registry.METHODS]
    return {"+".join(each): small(*each) for each in names + list(together)}


def small(method: str, *strategies: str) -> Run:
    """The run of a contract, with smaller views, but for a GAN's, and less to do; each anchor has a hard negative."""
    run = contracts.run(method, *strategies)
    changes: dict[str, Any] = {} if method == "gan" else {"augment.size": 16}
    changes |= {"hard.mined.mine": "top1"} if "mined" in strategies else {}
    return run.with_(changes | ({"hard.generated.d_steps": 2} if "generated" in strategies else {}))


class _Recorder(health.Watch):
    """Keeps the loss and the gradients of every player at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Tensor, list[Tensor | None]]] = []

    def note(self, player: str, step: int, loss: Tensor, grads: Sequence[Tensor | None], index: Tensor) -> None:
        self.seen.append((player, loss.clone(), [None if g is None else g.clone() for g in grads]))


class Taken(NamedTuple):
    """The means of the terms at each step, loss and gradients of each player, and the state after all steps."""

    terms: Sequence[Mapping[str, Tensor]]
    gradients: list[tuple[str, Tensor, list[Tensor | None]]]
    state: dict[str, Any]


def steps(run: Run, device: str = "cpu") -> Taken:
    """The first steps of a run on random images, by this process alone or together with the others."""
    session = train.open(run, data=contracts.toy(device), device=device, say=lambda line: None)
    session.watch = recorder = _Recorder()
    session.method.on_epoch(session.at, session.data, session.look)
    terms = [train.step(session, batch).means() for batch, _ in zip(session.batches(), range(STEPS), strict=False)]
    state = session.dump()
    del state["sums"]  # seconds are among them
    return Taken(terms, recorder.seen, state)


def _tensors(x: Any, key: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(x, Tensor):
        yield key, x.detach().cpu()
    elif isinstance(x, Mapping):
        for name, value in x.items():
            yield from _tensors(value, f"{key}.{name}")
    elif isinstance(x, list | tuple):
        for i, value in enumerate(x):
            yield from _tensors(value, f"{key}.{i}")


def difference(a: Any, b: Any) -> float:
    """The largest distance of two tensors of nested states, relative to the length of the second.

    What is shorter than a millionth of the longest counts as that: a gradient that cancels to 0 has no digits.
    """
    left, right = dict(_tensors(a)), dict(_tensors(b))
    if left.keys() != right.keys() or any(x.shape != right[key].shape for key, x in left.items()):
        return float("inf")
    lengths = {key: float(x.double().norm()) for key, x in right.items() if x.is_floating_point()}
    least = max(1e-6 * max(lengths.values(), default=0.0), 1e-30)
    worst = 0.0
    for key, x in left.items():
        if key not in lengths:
            worst = max(worst, 0.0 if torch.equal(x, right[key]) else float("inf"))
        else:
            apart = float((x.double() - right[key].double()).norm()) / max(lengths[key], least)
            worst = max(worst, apart if apart == apart else float("inf"))
    return worst


def _digest(state: Any) -> str:
    tensors = sorted(_tensors(state))
    return hashlib.sha256(b"".join(x.contiguous().view(-1).numpy().tobytes() for _, x in tensors)).hexdigest()


def compare(runs: Mapping[str, Run], device: str = "cpu") -> Iterator[Difference]:
    """Compare the steps of all ranks together with those of one alone; every rank gets the same answers."""
    at = ranks.rank(), ranks.size()
    with ranks.alone():  # the ranks share the work of being alone
        by_one = {name: steps(runs[name], device) for name in list(runs)[at[0] :: at[1]]}
    for i, (name, run) in enumerate(runs.items()):
        together = steps(run, device)
        here = None
        if name in by_one:
            here = [difference(x, y) for x, y in zip(together, by_one.pop(name), strict=True)]
        answers: list[Any] = [None] * at[1]
        dist.all_gather_object(answers, (_digest(together.state), here))
        loss, gradient, state = answers[i % at[1]][1]
        yield Difference(name, loss, gradient, state, len({digest for digest, _ in answers}) == 1)


# ------------------------------------------------------------------------------------------------- a stop, and going on


def stateful() -> Run:
    """A small run with a queue, an average of weights, chosen views and mixed images."""
    return contracts.run("moco", "hvs", "cutmix").with_({
        "recipe": "parallel", "data": {"name": "digits", "fraction": 0.1}, "batch_size": 16, "epochs": 2,
        "method.groups": 8, "logs.step_every": 1, "logs.views_every": 1, "logs.views_rows": 6,
    })  # fmt: skip


def stop_early(run: Run, runs_dir: Path, device: str = "cpu") -> None:
    """Train the first steps of a run, and stop in the middle of an epoch."""
    folder = run_folder.Folder(runs_dir, run) if ranks.writes() else None
    try:
        session = train.open(run, folder, device=device, say=lambda line: None)
        log = Logger(session, folder, None, None, lambda line: None)
        for batch, _ in zip(session.batches(), range(STOP), strict=False):
            log.step(train.step(session, batch))
        with contextlib.suppress(Stopped):
            log.stop()
    finally:
        if folder is not None:
            folder.close()


def learned(path: Path) -> dict[str, Any]:
    """The state in the last checkpoint of a run's folder, without seconds."""
    state = checkpoint.load(checkpoint.listed(path / "checkpoints")[0])
    state["sums"] = {key: x for key, x in state["sums"].items() if not key.startswith("seconds:")}
    return state


def goes_on(scratch: Path, device: str = "cpu") -> Iterator[tuple[str, float, bool]]:
    """A run that is stopped and taken up by as many processes, by fewer and by more, against one never stopped.

    Yields what was compared, the difference in state, and whether it counts as equal, which it is bitwise between equal
    numbers of processes. Every rank calls this, with the same folder.
    """
    run, n = stateful(), ranks.size()
    quiet: dict[str, Any] = {"device": device, "say": lambda line: None}
    whole = train.train(run, scratch / "whole", **quiet)
    stop_early(run, scratch / "stopped", device)
    ranks.from_first(lambda: _copied(scratch / "stopped", scratch / "by-one"))
    again = train.train(run, scratch / "stopped", **quiet)
    if ranks.writes():
        with ranks.alone():
            stop_early(run, scratch / "by-all", device)
            by_one = train.train(run, scratch / "by-one", **quiet)
    dist.barrier()
    by_all = train.train(run, scratch / "by-all", **quiet)
    if ranks.writes():
        wanted = learned(whole)
        apart = difference(learned(again), wanted)
        yield f"{n} processes, stopped, then {n}, against {n} never stopped: bitwise", apart, apart == 0
        for text, path in ((f"{n}, then 1", by_one), (f"1, then {n}", by_all)):
            apart = difference(learned(path), wanted)
            yield f"{text}, against {n} never stopped: to rounding", apart, apart <= BOUND


def _copied(a: Path, b: Path) -> None:
    shutil.copytree(a, b)


# ------------------------------------------------------------------------------------------------------- the processes


def prove(n: int, resume: bool = False, every: bool = False, device: str = "cpu") -> list[dict[str, Any]]:
    """Start ``n`` processes that compare; returns rows with ``what``, differences and ``equal``. HardlabError if they
    fail. every: all pairs of methods and strategies, instead of each once. resume: a stop and going on, instead."""
    from hardlab.process import launched_together

    if device == "auto":
        device = "cuda" if torch.cuda.device_count() >= n else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "rows.json"
        words = ["-m", "hardlab.workbook.parallel", str(out), "--device", device]
        words += (["--resume"] if resume else []) + (["--every"] if every else [])
        launched_together(words, n, f"The comparison of {n} processes with 1")
        rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


def describe(n: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text."""
    ends = ["NOT EQUAL", "equal"]
    if "loss" not in rows[0]:
        return "\n".join(f"{ends[row['equal']]:10}{row['what']} ({row['state']:.0e})" for row in rows)
    head = f"{n} processes against 1 with the same batch, after {STEPS} steps: relative differences"
    lines = [head, f"{'':24}{'loss':>10}{'gradient':>10}{'state':>10}"]
    for row in rows:
        numbers = "".join(f"{row[key]:>10.0e}" for key in ("loss", "gradient", "state"))
        alike = "" if row["same"] else "; the ranks differ"
        lines.append(f"{row['what']:24}{numbers}  {ends[row['equal']]}{alike}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """One of the processes that compare; the first writes the rows to OUT."""
    parser = argparse.ArgumentParser(prog="python -m hardlab.workbook.parallel", description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--every", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cuda = build.device(args.device).type == "cuda"
    device = f"cuda:{ranks.number_here()}" if cuda else args.device
    rows: list[dict[str, Any]]
    with ranks.joined(cuda), double_precision():
        if args.resume:
            at = args.out.with_suffix("")
            rows = [{"what": what, "state": x, "equal": equal} for what, x, equal in goes_on(at, device)]
        else:
            each = compare(pairs(args.every), device)
            rows = [d._asdict() | {"equal": d.equal} for d in each]
        if ranks.writes():
            args.out.write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
