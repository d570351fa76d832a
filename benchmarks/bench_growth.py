"""How the cost of a step grows: seconds and memory against batch, views, negatives, pixels, view log, processes.

    python -m benchmarks growth                                      # this processor; about two minutes
    python -m benchmarks processes                                   # several processes on it; about two minutes
    python -m benchmarks.growth measure --device cuda --out FOLDER   # a GPU; about 40 seconds, and no further package
    python -m benchmarks.growth page [FILE...]                       # adds such files, and writes docs/performance.md

A quantity takes some values, and all else stays. Every value has a limit, measured in the same rounds: the network by
itself on the same images, without drawing views, optimisers and the trainer around it. On a CPU, seconds are those of
the processor with one thread, which do not count what other programs take; processes together are timed by the clock.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Exponent, Ratio, Seconds, interleaved
from hardlab import checkpoint, machine, ranks, recipes, run_folder, train
from hardlab.config import Run
from hardlab.data import Images
from hardlab.data.base import Pixels, Source
from hardlab.types import Candidates, HardlabError

MEASURED = Path(__file__).with_name("growth.json")
EMULATION = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "HARDLAB_BF16")
SIDE = 32  # of images, in pixels
EXPECTED = 1.0  # the exponent of all quantities in theory
MORE = 0.1  # by which the last step may exceed it: larger tensors leave the caches
EFFICIENCY = 0.9  # of two processes with a thread each, to one with two


@dataclass(frozen=True)
class Quantity:
    """A setting that takes several values.

    label: of the axis. recipe: what is trained. values: by type of device. settings: value -> changes of the recipe.
    fixed: changes by type of device. size: value -> what the cost should be proportional to.
    views: value -> views that a selection has to score. products: with all negatives that a step cannot do without.
    """

    label: str
    recipe: str
    values: Mapping[str, tuple[int, ...]]
    settings: Callable[[int], dict[str, Any]]
    fixed: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    size: Callable[[int], int] = lambda value: value
    views: Callable[[int], int] = lambda value: 0
    products: int = 0

    def run(self, value: int, device: str) -> Run:
        rung = "smoke" if device == "cpu" else "gpu"
        changes = {"data.name": "shapes", "epochs": 1000} | self.fixed.get(device, {}) | self.settings(value)
        return recipes.recipe(self.recipe, rung, changes)


NEGATIVES = {"cpu": (1024, 4096, 16384, 65536), "cuda": (4096, 16384, 65536, 262144)}
FEW = {"cpu": {"batch_size": 64}, "cuda": {"batch_size": 256}}
QUANTITIES = {
    "batch": Quantity(
        "images in a batch, B", "simsiam", {"cpu": (64, 128, 256, 512), "cuda": (64, 128, 256, 512, 1024)},
        lambda n: {"batch_size": n},
    ),
    "views": Quantity(
        "views to choose from, N", "simsiam-hvs", {"cpu": (4, 8, 16, 32), "cuda": (4, 8, 16, 32)},
        lambda n: {"hard.hvs.draws": n}, FEW, views=lambda n: n,
    ),
    "queue": Quantity(
        "negatives, K", "moco", NEGATIVES, lambda n: {"method.queue": n}, FEW, products=2,
    ),
    "bank": Quantity(
        "negatives, K", "adco", NEGATIVES, lambda n: {"method.queue": n, "hard.adco.init": "random"}, FEW, products=3,
    ),
    "pixels": Quantity(
        "pixels of a view", "simsiam", {"cpu": (32, 48, 64, 96), "cuda": (32, 64, 96, 128)},
        lambda n: {"augment.size": n, "data.size": n},
        {"cpu": {"batch_size": 64}, "cuda": {"batch_size": 64}},
        size=lambda n: n * n,
    ),
}  # fmt: skip
QUIET, TRIES, TURN = 0.1, 4, 0.3  # share of the cores, turns, seconds
ROWS = (1, 4, 16, 64)  # segments of a view log
SEGMENT = 6144  # its rows: 1024 images with six pairs each
RANKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {  # -> numbers of processes, and the run of one
    "ranks": ((1, 2, 4), {"batch_size": 128}),
    "ranks, ResNet-18": ((1, 2), {"batch_size": 256, "backbone": "resnet18"}),
}


# ------------------------------------------------------------------------------------------- a step, and its limit


def images(run: Run, device: str) -> Images:
    """Random images for two steps of a run: what they show costs nothing."""
    count, side = 2 * run.batch_size, run.data.size or SIDE
    source = Source(("noise",), np.zeros(count, np.int64), [str(i) for i in range(count)])
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    about: dict[str, Any] = {"label_map": np.arange(1), "device": device, "size": None}
    return Pixels("noise", "train", source, [], pixels=pixels, **about)


class Trained:
    """A run whose steps are taken one by one, as the trainer takes them, with the reading of the batch."""

    def __init__(self, run: Run, device: str) -> None:
        self.session = train.open(run, data=images(run, device), device=device, say=lambda line: None)
        self.batches = itertools.chain.from_iterable(self.session.batches() for _ in itertools.count())

    def step(self) -> None:
        train.step(self.session, next(self.batches))

    def tensors(self) -> Iterator[Tensor]:
        """Those that live from step to step: weights, averages, queues, banks."""
        for net in (self.session.method, *self.session.hard):
            yield from net.parameters()
            yield from net.buffers()

    def held(self) -> int:
        """Bytes that live from step to step, with gradients and the state of the optimisers."""
        grads = [t for p in self.session.players for t in p.params]
        states = [t for p in self.session.players for s in p.opt.state.values() for t in s.values()]
        return _bytes(self.tensors()) + _bytes(grads) + _bytes(t for t in states if isinstance(t, Tensor))


def _bytes(tensors: Any) -> int:
    """The bytes of all tensors, of shared memory once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


class Alone:
    """What a step cannot do without: the network's passes over the same images, and products with all negatives.

    trained: a run with the same network, and few negatives. views: those that a selection scores. negatives: K.
    """

    def __init__(self, trained: Trained, views: int = 0, products: int = 0, negatives: int = 0) -> None:
        s = trained.session
        self.method, self.low, self.device = s.method, s.precision == "bf16", s.device
        self.params, self.trained, self.products = s.players[0].params, trained, products
        batch = next(iter(s.batches()))
        generator = torch.Generator(s.device).manual_seed(0)
        with torch.no_grad():
            self.two, self.many = (
                s.look.render(s.look.views(batch, n, generator)) if n else None for n in (s.method.slots, views)
            )
        dim = getattr(s.method, "dim", 1)
        self.q, self.bank = (
            F.normalize(torch.randn(n, dim, device=s.device), dim=1) for n in (len(batch.index), negatives)
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.low)

    def __call__(self) -> None:
        if self.many is not None:
            slots = range(self.many.x.shape[1])
            with torch.no_grad(), self._autocast():
                self.method.embed(self.many, slots, slots, joint=True)
        assert self.two is not None
        with self._autocast():
            loss = self.method(self.two).loss.mean()
        torch.autograd.grad(loss, self.params, allow_unused=True)
        if self.products:  # similarities, the gradients of the queries, those of the negatives
            p = self.q @ self.bank.T
            _ = p @ self.bank
            if self.products > 2:
                _ = p.T @ self.q

    def kept(self) -> int:
        """Bytes that the backward pass needs of the forward pass, and the pixels of the views to choose from."""
        own, saved = {t.untyped_storage().data_ptr() for t in self.trained.tensors()}, {}

        def pack(t: Tensor) -> Tensor:
            at = t.untyped_storage()
            if at.data_ptr() not in own:
                saved[at.data_ptr()] = at.nbytes()
            return t

        assert self.two is not None
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), self._autocast():
            out = self.method(self.two)
        more = 0 if self.many is None else self.many.x.nbytes
        del out
        return sum(saved.values()) + more


# ------------------------------------------------------------------------------------------------- a step's growth


def quantity(name: str, device: str, rounds: int, seconds: float = 1e9) -> dict[str, Any]:
    """The measurements of a quantity: for each value seconds of all rounds, and bytes, both of a step and its limit.

    seconds: the most to spend, by fewer rounds.
    """
    start = time.monotonic()
    kind = "cuda" if device.startswith("cuda") else "cpu"
    what = QUANTITIES[name]
    turns: dict[str, Callable[[], Any]] = {}
    measured, limits = [], []
    for value in what.values[kind]:
        run = what.run(value, kind)
        peak = _peak_on_gpu(run) if kind == "cuda" else apart(_peak_here, run)
        trained = Trained(run, device)
        trained.step()
        few = trained
        if what.products:
            few = Trained(QUANTITIES["queue"].run(run.batch_size, kind), device)
        limit = Alone(few, what.views(value), what.products, value if what.products else 0)
        measured.append(peak)
        limits.append(trained.held() + limit.kept())
        turns |= {f"step {value}": _waited(trained.step, kind), f"alone {value}": _waited(limit, kind)}
    for turn in turns.values():
        turn()
    now = time.monotonic()
    for turn in turns.values():
        turn()
    left, each = seconds - (time.monotonic() - start), time.monotonic() - now
    clock = time.perf_counter if kind == "cuda" else time.process_time
    taken, _ = interleaved(turns, max(3, min(rounds, int(left / each) - 1)), clock)
    return {
        "values": list(what.values[kind]),
        "seconds": [_rounded(taken[f"step {v}"].rounds) for v in what.values[kind]],
        "alone": [_rounded(taken[f"alone {v}"].rounds) for v in what.values[kind]],
        "bytes": measured,
        "unavoidable": limits,
    }


def _rounded(seconds: Sequence[float]) -> list[float]:
    return [float(f"{s:.4g}") for s in seconds]


def _waited(turn: Callable[[], Any], kind: str) -> Callable[[], Any]:
    """A turn that ends when the device has done its work."""
    if kind == "cpu":
        return turn

    def both() -> None:
        turn()
        torch.cuda.synchronize()

    return both


def _peak_on_gpu(run: Run) -> int:
    """Bytes on the GPU at the peak of a step, without the images."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    trained = Trained(run, "cuda")
    pixels: Any = trained.session.data
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        trained.step()
    return torch.cuda.max_memory_allocated() - before - int(pixels.pixels.nbytes)


def _peak_here(run: Run) -> int | None:
    """Bytes of this process that its weights and two steps take at their peak, as the system counts them."""
    torch.set_num_threads(1)
    trained = Trained(run, "cpu")
    before = resident()
    machine.keep_pages()
    trained.step()
    trained.step()
    return None if before is None else resident(peak=True, before=before) + _bytes(trained.tensors())


def resident(peak: bool = False, before: int = 0) -> Any:
    """Bytes of memory that this process has, or has had at most, beyond ``before``; None where Linux does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    if not peak:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    name = "VmHWM:" if peak else "VmRSS:"
    (kib,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith(name)]
    return 1024 * int(kib) - before


# ---------------------------------------------------------------------------------------------------- other processes

_PLACES = multiprocessing.get_context("forkserver")
_PLACES.set_forkserver_preload(["benchmarks.bench_growth"])  # a process then starts with all imports done


def apart(f: Callable[..., Any], *args: Any) -> Any:
    """What ``f`` returns in a process of its own."""
    here, there = _PLACES.Pipe()
    child = _PLACES.Process(target=_answer, args=(there, f, args))
    child.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise HardlabError(f"{f.__name__} ended without an answer.") from None
    finally:
        child.join()


def _answer(there: Any, f: Callable[..., Any], args: tuple[Any, ...]) -> None:
    there.send(f(*args))


class Together:
    """Processes that train one run together on this machine; ``__call__`` lets them take a step."""

    def __init__(self, n: int, threads: int, changes: dict[str, Any]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.pipes, self.children = [], []
        for rank in range(n):
            here, there = _PLACES.Pipe()
            child = _PLACES.Process(target=_rank, args=(there, rank, n, port, threads, changes), daemon=True)
            child.start()
            there.close()
            self.pipes.append(here)
            self.children.append(child)
        self()

    def __call__(self, word: str = "step") -> float:
        """Returns the sum of what the processes answer: after a step, their seconds of processor time so far."""
        for pipe in self.pipes:
            pipe.send(word)
        try:
            return sum(pipe.recv() for pipe in self.pipes)
        except EOFError:
            raise HardlabError("A process of the benchmark ended.") from None

    def end(self) -> int:
        """End the processes; returns the bytes that they took at their peak, beyond what they started with."""
        peak = int(self("end"))
        for child in self.children:
            child.join()
        return peak


def _rank(pipe: Any, rank: int, n: int, port: int, threads: int, changes: dict[str, Any]) -> None:
    torch.set_num_threads(threads)
    at = {"RANK": rank, "WORLD_SIZE": n, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in at.items()})
    with ranks.joined(False) if n > 1 else contextlib.nullcontext():
        if n == 1:
            os.environ["WORLD_SIZE"] = "1"
        trained = Trained(recipes.recipe("simsiam", "smoke", changes), "cpu")
        before = resident()
        machine.keep_pages()
        for word in iter(pipe.recv, "end"):
            assert word == "step"
            trained.step()
            pipe.send(time.process_time())
        pipe.send(0 if before is None else resident(peak=True, before=before) + _bytes(trained.tensors()))


def busy() -> float | None:
    """Seconds of all cores so far in which they did not wait; None where Linux does not say."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _, _, *interrupted = (int(word) for word in path.read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(interrupted)) / os.sysconf("SC_CLK_TCK")


def turn_of(group: Together, count: int, tries: int = TRIES) -> tuple[float, float]:
    """Seconds of a step, the mean of ``count``, and the share of all cores that other programs took meanwhile.

    A turn is repeated while others take more than ``QUIET``; of ``tries``, the one with the smallest share counts.
    """
    taken = []
    for _ in range(tries):
        ours = group()
        before, start = busy(), time.perf_counter()
        for _ in range(count):
            last = group()
        seconds, after = time.perf_counter() - start, busy()
        others = 0.0 if before is None or after is None else after - before - (last - ours)
        taken.append((max(0.0, others / seconds / (os.cpu_count() or 1)), seconds / count))
        if taken[-1][0] <= QUIET:
            break
    share, each = min(taken)
    return each, share


def processes(name: str, rounds: int, seconds: float = 45.0) -> dict[str, Any]:
    """Seconds of a step of several processes on all cores, each with as many images; and of one with all of these.

    seconds: the most to spend on rounds, of which there are three at least.
    """
    cores, (numbers, share) = os.cpu_count() or 1, RANKS[name]

    def group(n: int, shares: int, **more: Any) -> Together:
        changes = {"data.name": "shapes", "epochs": 1000} | share | {"batch_size": shares * share["batch_size"]} | more
        return Together(n, max(1, cores // n), changes)

    groups = {f"together {n}": group(n, n) for n in numbers}
    groups |= {f"one {n}": group(1, n) for n in numbers if n > 1}
    groups["own norms"] = group(2, 2, sync_bn=False)
    count = max(1, round(TURN / turn_of(groups["together 1"], 3)[0]))
    taken: dict[str, list[float]] = {key: [] for key in groups}
    others = []
    start = time.monotonic()
    for i in range(rounds):
        if i >= 3 and time.monotonic() - start > seconds:
            break
        for key in list(groups)[:: 1 if i % 2 == 0 else -1]:
            each, part = turn_of(groups[key], count)
            taken[key].append(each)
            others.append(part)
    peak = {key: each.end() for key, each in groups.items()}
    taken["one 1"], peak["one 1"] = taken["together 1"], peak["together 1"]
    return {
        "values": list(numbers),
        "seconds": [_rounded(taken[f"together {n}"]) for n in numbers],
        "alone": [_rounded(taken[f"one {n}"]) for n in numbers],
        "own norms": [_rounded(taken["own norms"])],
        "bytes": [peak[f"together {n}"] or None for n in numbers],
        "unavoidable": [peak[f"one {n}"] or None for n in numbers],
        "cores": cores,
        "others": round(statistics.median(others), 3),
    }


# ------------------------------------------------------------------------------------------------------ the view log


def _seen(images: int, generator: torch.Generator) -> Candidates:
    """The candidates of a step of HVS with four views."""
    from hardlab.analysis.schema import PARAMS

    params = torch.rand(images, 4, len(PARAMS), generator=generator)
    pairs = torch.combinations(torch.arange(4))
    loss = torch.rand(images, len(pairs), generator=generator)
    return Candidates(params, pairs, loss, loss.argmax(1))


def write_log(folder: Path, segments: int) -> Path:
    """A run's folder with a view log of as many segments, written as a run writes it."""
    run = recipes.recipe("simsiam-hvs", "smoke", {"logs.views_rows": 1024})
    made = run_folder.Folder(folder, run)
    try:
        made.begin(torch.device("cpu"), "fp32", {"name": "shapes"}, None, {})
        generator = torch.Generator().manual_seed(0)
        for i in range(segments):
            images = SEGMENT // 6
            made.log_views(_seen(images, generator), torch.arange(images), i, i + 1, images)
            made.flush_views(i + 1)
    finally:
        made.close()
    return made.path


def _arrow(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(sorted((path / "views").glob("*.parquet")))


def _read_here(path: Path) -> int | None:
    from hardlab.analysis import viewlog

    before = resident()
    frame = viewlog.read(path)
    assert len(frame)
    return None if before is None else int(resident(peak=True, before=before))


def view_log(rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and bytes of reading logs of several lengths, and of writing them, against pyarrow's own."""
    import pyarrow.parquet

    from hardlab.analysis import viewlog

    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        logs = {n: write_log(top / str(n), n) for n in ROWS}
        turns: dict[str, Callable[[], Any]] = {}
        again = itertools.count()

        def written(n: int) -> None:
            write_log(top / f"again-{next(again)}", n)

        def arrow_writes(n: int) -> None:
            # of the tables of a run as they are, which costs making the candidates as well
            table = _arrow(logs[ROWS[0]]).slice(0, SEGMENT)
            generator = torch.Generator().manual_seed(0)
            for i in range(n):
                _seen(SEGMENT // 6, generator)
                pyarrow.parquet.write_table(table, top / f"arrow-{i}.parquet", compression="zstd")

        for n, path in logs.items():
            turns[f"read {n}"] = partial(viewlog.read, path)
            turns[f"arrow reads {n}"] = partial(_arrow, path)
        taken, _ = interleaved(turns, rounds, time.process_time)
        turns = {f"write {n}": partial(written, n) for n in ROWS}
        turns |= {f"arrow writes {n}": partial(arrow_writes, n) for n in ROWS}
        taken |= interleaved(turns, 3, time.process_time)[0]
        sizes = [SEGMENT * n for n in ROWS]
        peaks = [apart(_read_here, path) for path in logs.values()]
        arrays = [_arrow(path).nbytes for path in logs.values()]

    def table(ours: str, theirs: str, peak: list[Any], least: list[Any]) -> dict[str, Any]:
        return {
            "values": sizes,
            "seconds": [_rounded(taken[f"{ours} {n}"].rounds) for n in ROWS],
            "alone": [_rounded(taken[f"{theirs} {n}"].rounds) for n in ROWS],
            "bytes": peak,
            "unavoidable": least,
        }

    none = [None] * len(ROWS)
    return {
        "log read": table("read", "arrow reads", peaks, arrays),
        "log written": table("write", "arrow writes", none, none),
    }


# --------------------------------------------------------------------------------------------------------------- rows


def kind_of(device: str) -> str:
    """The processor or GPU, the precision, and what is emulated: rows of different kinds stay beside each other."""
    on = torch.device(device)
    name = torch.cuda.get_device_name() if on.type == "cuda" else machine.processor()
    given = [f"{name}={os.environ[name]}" for name in EMULATION if name in os.environ]
    return ", ".join([name, machine.resolve("auto", on), *given])


def facts(device: str) -> dict[str, Any]:
    head, dirty = run_folder.commit()
    return {"kind": kind_of(device), "device": device, "commit": head, "dirty": dirty, "date": run_folder.now(),
            "versions": run_folder.versions(), "quantities": {}}  # fmt: skip


def steps(device: str, out: Path, seconds: float, rounds: int = 9) -> Path:
    """Measure the quantities of a step and write them to a file, quantity by quantity, within about ``seconds``."""
    book = facts(device)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "growth.json"
    until = time.monotonic() + seconds
    for i, name in enumerate(QUANTITIES):
        book["quantities"][name] = quantity(name, device, rounds, (until - time.monotonic()) / (len(QUANTITIES) - i))
        checkpoint.write_atomic(path, (json.dumps(book) + "\n").encode())
        print(f"{name}: {until - time.monotonic():.0f} s left", flush=True)
        if time.monotonic() > until:
            break
    return path


def keep(book: dict[str, Any], path: Path = MEASURED) -> None:
    """Add the measurements of a kind, in place of earlier ones, with the memory that is calculated for them."""
    from hardlab.workbook import memory

    device = "cpu" if book["device"] == "cpu" else "cuda"
    precision = next(word for word in book["kind"].split(", ") if word in ("bf16", "fp32"))
    kept = known(path)
    of_kind = kept.setdefault(book["kind"], {})
    for name, measured in book["quantities"].items():
        of_kind[name] = measured | {key: book[key] for key in ("commit", "dirty", "date", "versions")}
        if name in QUANTITIES:
            runs = [QUANTITIES[name].run(v, device).with_({"precision": precision}) for v in measured["values"]]
            costs = [memory.calculate(run) for run in runs]
            of_kind[name]["calculated"] = [cost.peak - cost.images for cost in costs]
    checkpoint.write_atomic(path, (json.dumps(kept, indent=1) + "\n").encode())


def known(path: Path = MEASURED) -> dict[str, Any]:
    """The recorded measurements, by kind and quantity."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return kept


class Grown(NamedTuple):
    """How the seconds or bytes of a quantity grow: over all values, and from the last but one to the last.

    alone: the exponent of the limit.
    """

    all: Exponent
    last: Exponent
    alone: Exponent


def sizes(name: str, values: Sequence[int]) -> list[int]:
    return [QUANTITIES[name].size(v) for v in values] if name in QUANTITIES else list(values)


def grown(name: str, measured: dict[str, Any]) -> Grown:
    at, seconds = sizes(name, measured["values"]), measured["seconds"]
    return Grown(Exponent(at, seconds), Exponent(at[-2:], seconds[-2:]), Exponent(at, measured["alone"]))


def as_expected(found: Grown) -> bool:
    """Whether the seconds grow no faster than in theory, within what was measured."""
    return bool(found.last.interval[0] <= EXPECTED + MORE)


def efficiency(measured: dict[str, Any], images: int = 1, own_norms: bool = False) -> Ratio:
    """Images per second of two processes, each with half of the cores, over one with all and ``images`` shares.

    own_norms: whether each process normalises its own rows, instead of all as one.
    """
    one = measured["alone"][measured["values"].index(images)]
    two = measured["own norms"][0] if own_norms else measured["seconds"][measured["values"].index(2)]
    return Ratio(Seconds([2 / images * s for s in one]), Seconds(two))


def rows(book: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of name, value, unit, peer, ratio, target, ok of one kind."""
    out: list[dict[str, Any]] = []
    for name, measured in book["quantities"].items():
        found = grown(name, measured)
        out.append({"name": f"growth of a step's seconds, {name}, {book['kind']}", "value": found.all,
                    "unit": "exponent", "peer": f"the limit: {found.alone:.2f}", "ratio": None,
                    "target": EXPECTED + MORE, "ok": as_expected(found)})  # fmt: skip
    for name, own_norms in itertools.product(RANKS, (False, True)):
        if name in book["quantities"]:
            measured = book["quantities"][name]
            ratio = efficiency(measured, own_norms=own_norms)
            taken = measured["own norms"][0] if own_norms else measured["seconds"][1]
            out.append({"name": f"2 processes, {name}{', sync_bn=false' * own_norms}, {book['kind']}",
                        "value": statistics.median(taken), "unit": "s", "peer": "1 process with all cores",
                        "ratio": ratio, "target": EFFICIENCY, "ok": bool(ratio >= EFFICIENCY)})  # fmt: skip
    return out


def run(rounds: int = 7) -> list[dict[str, Any]]:
    """Measure a step and the view log on this processor, keep the measurements and return their rows."""
    book = facts("cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    machine.keep_pages()
    try:
        book["quantities"] |= {name: quantity(name, "cpu", rounds) for name in QUANTITIES} | view_log(rounds)
    finally:
        torch.set_num_threads(threads)
    keep(book)
    return rows(book)


def run_processes(rounds: int = 15) -> list[dict[str, Any]]:
    """Measure several processes on the cores of this machine, keep the measurements and return their rows."""
    book = facts("cpu")
    book["quantities"] |= {name: processes(name, rounds) for name in RANKS}
    keep(book)
    return rows(book)


RACES: dict[str, Callable[[], list[dict[str, Any]]]] = {"growth": run, "processes": run_processes}
