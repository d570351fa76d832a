"""No step that is not logged makes the host wait for its device: counted for every recipe.

Where there is a GPU, torch counts (`torch.cuda.set_sync_debug_mode`). Elsewhere a device is played on the CPU: whatever
the code does not make on the host, it may not read, nor may shapes depend on it.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import steps
import torch
from shallow import Shallow
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hardlab import contracts, meters, nets, recipes, run_folder, train, transfer, views
from hardlab.data.base import Pixels, Source
from hardlab.hard.base import Hard
from hardlab.hard.iou import IoUPolicy
from hardlab.hard.mined import Mined
from hardlab.logger import Logger
from hardlab.methods.base import Step
from hardlab.types import Candidates, Out
from hardlab.views import PRESETS, Augment

STEPS = 2  # after the first one, in which optimisers make their state, and which is logged
SMALL = {
    "batch_size": 16,
    "precision": "fp32",
    "epochs": 2,
    "logs.step_every": 1000,
    "logs.views_every": 1,
    "logs.monitor_every": 0,
}
# settings under which a strategy or a method is at work within these steps
ACTIVE = {
    "adco": {"size": 16},
    "mochi": {"warmup_epochs": 0},
    "synco": {"warmup_epochs": 0},
    "mined": {"threshold": 30.0},
    "gan": {"d_steps": 2},
}


class Play(TorchDispatchMode):
    """A device on the CPU: storages that are not known to be the host's are the device's. ``waits``: what read them."""

    READS = (
        "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim",
        "unique_consecutive", "bincount",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.hosts: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def on_host(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self.hosts

    def mark(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        self.hosts[storage._cdata] = storage

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = [self.on_host(x) for x in tensors]
        name = func.__name__.split(".")[0]
        if tensors and not all(here):
            masks = name in ("index", "index_put", "index_put_") and any(
                i is not None and i.dtype == torch.bool for i in args[1]
            )
            counts = name == "repeat_interleave" and len(tensors) > 1
            mixed = any(h and x.ndim for h, x in zip(here, tensors, strict=True)) and name not in ("copy_", "_to_copy")
            if name in self.READS or masks or counts or mixed:
                self.waits.append(func.__name__)
        out = func(*args, **(kwargs or {}))
        if tensors and all(here):
            for x in tree_leaves(out):
                if isinstance(x, Tensor):
                    self.mark(x)
        return out


class Calls(TorchFunctionMode):
    """Which tensors are made on the host, which are copied to the device or from it, and whether that waits."""

    MADE = (
        torch.tensor, torch.as_tensor, torch.rand, torch.randn, torch.randint, torch.randperm, torch.arange,
        torch.zeros, torch.ones, torch.full, torch.empty, torch.eye, torch.linspace,
    )  # fmt: skip

    def __init__(self, play: Play) -> None:
        super().__init__()
        self.play = play

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in self.MADE:
            if kwargs.get("device") in (None, "cpu"):
                self.play.mark(out)
            elif func in (torch.tensor, torch.as_tensor):
                self.play.waits.append("tensor")
        elif func is torch.Tensor.new_tensor and not self.play.on_host(args[0]):
            self.play.waits.append("new_tensor")
        elif func in (torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy) and not self.play.on_host(args[0]):
            self.play.waits.append(func.__name__)
        elif func is torch.Tensor.to:
            named = (a for a in (*args[1:], *kwargs.values()) if isinstance(a, torch.device | Tensor | str))
            target, here = next(named, None), self.play.on_host(args[0])
            there = self.play.on_host(target) if isinstance(target, Tensor) else target == "cpu"
            if target is None or there:
                if not here and there and not kwargs.get("non_blocking"):
                    self.play.waits.append("to")
            elif here:
                if not kwargs.get("non_blocking"):
                    self.play.waits.append("to")
                out = torch.clone(out)  # on a CPU it is the same tensor
                self.play.hosts.pop(out.untyped_storage()._cdata, None)
        return out


@contextmanager
def played(patch: pytest.MonkeyPatch) -> Iterator[Play]:
    """Inside, the CPU is a device."""
    play = Play()
    for table in (views._ORDERS, views._HUE_AT, views._BLENDS):
        play.mark(table)
    patch.setattr(transfer, "on_host", play.on_host)
    with play, Calls(play):
        yield play


def images(device: str) -> Pixels:
    source = Source(tuple("abcdefghij"), np.arange(256) % 10, [str(i) for i in range(256)])
    pixels = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), np.uint8)
    return Pixels("toy", "train", source, [], label_map=np.arange(10), device=device, size=None, pixels=pixels)


def opened(name: str, device: str = "cpu") -> train.Session:
    run = recipes.recipe(name, "smoke", SMALL)
    run = run.with_({"backbone.width": 4} if run.backbone.name == "tiny" else {}).with_({"parent": None})
    run = run.with_({f"method.{key}": x for key, x in ACTIVE.get(run.method.name, {}).items()})
    for strategy in run.hard:
        run = run.with_({f"hard.{strategy.name}.{key}": x for key, x in ACTIVE.get(strategy.name, {}).items()})
    return train.open(run, data=images(device), device=device, say=lambda line: None)


@cache
def kinds() -> dict[str, bool]:
    """The first recipe of each kind: method, strategies, how they go about it, optimiser, small crops or none.

    Name -> whether it is the first of its method and strategies at all.
    """
    first: dict[str, str] = {}
    systems: set[str] = set()
    for name in recipes.RECIPES:
        run = recipes.recipe(name, "smoke").model_dump(mode="json")

        def choices(part: dict) -> list:
            return [part["name"], {k: v for k, v in part["options"].items() if isinstance(v, str | bool)}]

        parts = [choices(run["method"]), *map(choices, run["hard"])]
        key = json.dumps([parts, run["optim"]["name"], bool(run["local"])], sort_keys=True)
        if key not in first:
            first[key] = name
    labels = {}
    for name in first.values():
        run = recipes.recipe(name, "smoke")
        system = " ".join([run.method.name, *(h.name for h in run.hard)])
        labels[name] = system not in systems
        systems.add(system)
    return labels


def started(name: str, folder: Path, patch: pytest.MonkeyPatch, device: str = "cpu") -> tuple[train.Session, Logger]:
    patch.setattr(meters, "SAY_EVERY", 0.0)  # a line of progress after every step
    session = opened(name, device)
    log = Logger(session, run_folder.Folder(folder, session.run), None, None, lambda line: None)
    session.method.on_epoch(session.at, session.data, session.look)
    return session, log


@contextmanager
def gradients_watched(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Inside, nothing lies on the host, and what the gradients read is listed.

    By torch's profiler: some gradients of torch, of products and determinants, read values, and do so in another way
    where a mode such as ``Play`` is on.
    """
    reads: list[str] = []
    grad = torch.autograd.grad

    def watched(*args, **kwargs):
        with torch.autograd.profiler.profile() as profile:
            out = grad(*args, **kwargs)
        names = (event.name().removeprefix("aten::") for event in profile.kineto_results.events())
        reads.extend(name for name in names if name in Play.READS)
        return out

    with patch.context() as inside:
        inside.setattr(torch.autograd, "grad", watched)
        inside.setattr(transfer, "on_host", lambda x: False)
        yield reads


def waits_of(name: str, folder: Path, patch: pytest.MonkeyPatch, more: Hard | None = None) -> list[str]:
    """What the steps after the first one wait for, and what the gradients of one more step read."""
    session, log = started(name, folder, patch)
    session.hard += [more] if more else []
    with played(patch) as play:
        for look in (session.look, *session.look.local):
            play.mark(look._boxes)
            play.mark(look._colours)
        batches = session.batches()
        for _ in range(1 + STEPS):
            log.step(train.step(session, next(batches)))
            if session.done == 1:
                play.waits.clear()
    with gradients_watched(patch) as reads:
        log.step(train.step(session, next(batches)))
    return play.waits + reads


@pytest.mark.parametrize(
    "name", [name if first else pytest.param(name, marks=pytest.mark.slow) for name, first in kinds().items()]
)
def test_a_step_that_is_not_logged_waits_nowhere_for_its_device(name, tmp_path, monkeypatch):
    if not kinds()[name]:  # another recipe has the same method and strategies, and a whole network
        monkeypatch.setattr(nets, "Tiny", Shallow)
    assert waits_of(name, tmp_path, monkeypatch) == []


def test_a_view_log_that_is_full_between_two_logged_steps_leaves_the_device_without_a_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "HELD", 2)
    assert waits_of("simsiam-hvs", tmp_path, monkeypatch) == []


def test_the_first_step_of_a_later_epoch_waits_nowhere_either(tmp_path, monkeypatch):
    session, log = started("simclr-dd", tmp_path, monkeypatch)
    with played(monkeypatch) as play:
        for look in (session.look, *session.look.local):
            play.mark(look._boxes)
            play.mark(look._colours)
        for done in (0, session.per_epoch):
            session.done = done
            play.waits.clear()
            log.step(train.step(session, next(session.batches())))
    assert session.at.epoch == 1 and play.waits == []


@pytest.mark.gpu
def test_on_a_gpu_torch_sees_no_step_wait_that_is_not_logged(tmp_path, monkeypatch):
    waiting = {}
    for name in kinds():
        session, log = started(name, tmp_path / name, monkeypatch, "cuda")
        batches = session.batches()
        log.step(train.step(session, next(batches)))
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for _ in range(STEPS):
                    log.step(train.step(session, next(batches)))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits = {f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)}
        waiting |= {name: sorted(waits)} if waits else {}
    assert waiting == {}


class Curious(Hard):
    """Reads something at every step."""

    def __init__(self, read: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.read = read

    def terms(self, step: Step) -> Mapping[str, Tensor]:
        self.read(step.out.loss)
        return {}


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda x: x.mean().item(), "_local_scalar_dense.default"),
        (lambda x: bool((x > 0).all()), "_local_scalar_dense.default"),
        (lambda x: x.detach().cpu(), "cpu"),
        (lambda x: x.detach().to("cpu"), "to"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x[x > 0], "index.Tensor"),
        (lambda x: torch.equal(x, x), "equal.default"),
        (lambda x: x[torch.arange(2)], "index.Tensor"),  # places that the host has are copied
        (lambda x: torch.tensor([1.0], device=x.device), "tensor"),
        (lambda x: x.new_tensor([1.0]), "new_tensor"),
        (lambda x: torch.ones(2).to(x.device), "to"),
    ],
)
def test_the_count_of_waits_sees_what_a_strategy_reads_or_copies(read, name, tmp_path, monkeypatch):
    assert waits_of("supervised", tmp_path, monkeypatch, Curious(read)) == [name] * STEPS


@pytest.mark.parametrize("term", [lambda x: x.view(2, -1).prod(1), lambda x: x.view(4, 2, 2).det()])
def test_the_count_of_waits_sees_what_a_gradient_of_torch_reads(term, tmp_path, monkeypatch):
    class Term(Hard):
        def terms(self, step: Step) -> Mapping[str, Tensor]:
            return {"term": term(step.out.loss)}

    assert set(waits_of("supervised", tmp_path, monkeypatch, Term())) == {"_local_scalar_dense"}


def test_what_lies_on_the_host_may_be_read_at_every_step(tmp_path, monkeypatch):
    read = lambda x: (int(torch.randint(5, ())), torch.rand(3)[torch.rand(3) > 0.5], transfer.constant([1], x))  # noqa: E731
    assert waits_of("supervised", tmp_path, monkeypatch, Curious(read)) == []


@pytest.mark.parametrize("name", ["simsiam", "hnssl", "simsiam-iou-30-35", "adco"])
def test_the_ways_that_suit_a_cpu_would_wait(name, tmp_path, monkeypatch):
    session, _ = started(name, tmp_path, monkeypatch)
    with played(monkeypatch) as play:
        monkeypatch.setattr(transfer, "on_host", lambda x: True)
        batches = session.batches()
        for _ in range(1 + STEPS):
            train.step(session, next(batches))
    assert play.waits


# ------------------------------------------------------------------------------ what a device does, and a CPU otherwise


@pytest.fixture
def far(monkeypatch):
    """Nothing can be read at once."""
    monkeypatch.setattr(transfer, "on_host", lambda x: False)


LOOKS = {
    "colour": Augment(size=24, jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray=0.3, blur=0.5, solarize=0.3),
    "plain": Augment(size=24),
    "last": Augment(size=24, crop="last", jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2, blur=0.5),
    "cubic": Augment(size=24, interpolation="bicubic", jitter=(0.4, 0.4, 0.4, 0.1), gray=0.2, solarize=0.2),
}


@pytest.mark.parametrize("kind", LOOKS)
def test_views_rendered_without_a_look_at_their_parameters_are_the_same(kind, monkeypatch):
    look = views.Look(LOOKS[kind], (0.5,) * 3, (0.25,) * 3)
    raw = torch.rand(64, 3, 40, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sizes = torch.tensor([[40, 32], [30, 32], [40, 20], [17, 19]]).repeat(16, 1)
    p = look.draw(sizes, 3, torch.Generator().manual_seed(1))
    rendered, grads = [], []
    for near in (True, False):
        monkeypatch.setattr(transfer, "on_host", lambda x, near=near: near)
        rendered.append(torch.cat([look.apply(raw, p).flatten(), look.plain(raw, sizes).flatten()]))
        grads.append(torch.autograd.grad(rendered[-1].square().mean(), raw)[0])
    assert torch.allclose(*rendered, atol=2e-5)
    assert torch.allclose(*grads, atol=1e-6 * 1 + 1e-3 * float(grads[0].abs().max()))


def test_a_mined_term_on_a_device_is_the_mean_of_the_rows_that_have_hard_negatives(far):
    hard = Mined(epsilon=0.0)
    total = torch.tensor([0.5, 0.0, 2.0, 0.0], requires_grad=True)
    term = hard.loss(total, torch.tensor([True, False, True, False]))
    assert term.shape == (1,) and term.item() == pytest.approx(-(math.log(0.5) + math.log(2.0)) / 2)
    assert torch.autograd.grad(term.sum(), total)[0].tolist() == [-1.0, 0.0, -0.25, 0.0]
    none = hard.loss(total, torch.zeros(4, dtype=torch.bool))
    assert none.item() == 0 and torch.autograd.grad(none.sum(), total)[0].tolist() == [0.0] * 4


def test_pairs_redrawn_on_a_device_are_within_the_bound_and_the_others_stay(far):
    policy, look = IoUPolicy(start=0.3, end=0.3, tries=64), views.Look(PRESETS["simclr_cifar"], (0.5,) * 3, (0.25,) * 3)
    policy.bound = 0.3
    sizes = torch.full((128, 2), 32)
    v = steps.Drawn(torch.zeros(128, 3, 32, 32), sizes, torch.arange(128), torch.arange(128), look.draw(sizes, 2))
    step = steps.looked(policy, None, v, look)
    over = views.iou(v.params[:, 0], v.params[:, 1]) > 0.3
    now = step.views.params
    gave_up = round(float(step.numbers[f"{policy.name}.gave_up"]) * 128)
    assert 0 < over.sum() < 128
    assert torch.equal(now[~over], v.params[~over]) and not (now[over] == v.params[over]).flatten(1).all(1).any()
    assert (views.iou(now[:, 0], now[:, 1]) > 0.3).sum() == gave_up
    assert step.numbers[f"{policy.name}.redrawn"] == over.float().mean()


def test_generated_images_leave_no_trace_in_the_banks_of_deepcluster():
    method = contracts.make("deepcluster")
    rows, q = torch.tensor([4, 9, -1, -1]), torch.randn(4, method.bank.shape[2])
    out = Out(steps.rendered(torch.zeros(4, 2, 3, 8, 8), rows), {0: q, 1: 2 * q}, {}, torch.zeros(4))
    expected = method.bank.clone()
    method.after_step(steps.after(method, out))
    expected[0, [4, 9]], expected[1, [4, 9]] = q[:2], 2 * q[:2]
    assert torch.equal(method.bank, expected)


def test_the_view_log_holds_a_bounded_number_of_steps_on_the_device_and_writes_the_same_rows(tmp_path, monkeypatch):
    session = opened("dino-hvs")
    logged = []
    for held in (1, 3, 100):
        monkeypatch.setattr(run_folder, "HELD", held)
        folder = run_folder.Folder(tmp_path / str(held), session.run)
        generator = torch.Generator().manual_seed(0)
        for at in range(8):
            seen = Candidates(
                torch.rand(16, 4, len(views.PARAMS), generator=generator), torch.tensor([[0, 1, 4], [2, 3, 5]]),
                torch.rand(16, 2, generator=generator), torch.randint(2, (16,), generator=generator),
                torch.rand(16, 2, len(views.PARAMS), generator=generator),
            )  # fmt: skip
            folder.log_views(seen, torch.tensor([*range(8), *[-1] * 8]), 0, at, 12)
            for t in seen[:1] + seen[2:]:
                t.zero_()  # a step may use its memory again
            assert len(folder._seen) < held
        folder.flush_views(8)
        logged.append([pq.read_table(folder.path / name) for name in ("views", "crops")])
        folder.close()
    assert logged[0] == logged[1] == logged[2]
    rows = logged[0][0]
    assert rows["index"].to_pylist() == [i for _ in range(8) for i in range(8) for _ in range(2)]
    assert min(rows["loss"].to_pylist()) > 0
