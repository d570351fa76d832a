"""Several processes that train one run: which rows of a batch are whose, and what the processes exchange.

Row i of a batch belongs to rank i % size. So an own part of rows, of several slots of them one after the other, and of
groups of norms is each the part of the whole. All ranks have the same random numbers: whoever draws for rows draws for
the whole batch and keeps its own. With one process every function here returns what it is given.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hardlab.errors import HardlabError

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells a process
_PATIENCE = timedelta(hours=2)  # the others wait while the first rank evaluates
# between exchanges of a step; a machine that is gone closes no connection, and NCCL notices no process that dies
_STEP = timedelta(minutes=10)

T = TypeVar("T")


class Place(NamedTuple):
    """The number of this process among those that train together, from 0, how many they are, and whether they met.

    patient: the group in which the others wait for the first; None = that of the exchanges of a step.
    """

    rank: int = 0
    size: int = 1
    met: bool = False
    patient: Any = None


_place: ContextVar[Place] = ContextVar("_place", default=Place())  # noqa: B039  a tuple


def size() -> int:
    """The number of processes that train together."""
    return _place.get().size


def rank() -> int:
    return _place.get().rank


def writes() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def met() -> bool:
    """Whether this process has joined others, also if it acts alone for a while."""
    return _place.get().met


def backend() -> str | None:
    """The library that carries tensors between the ranks: gloo or nccl; None for one process."""
    if size() == 1:
        return None
    return "nccl" if "nccl" in dist.get_backend_config() else "gloo"


# ---------------------------------------------------------------------------------------------- joining and leaving


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or a launcher that says the same, has started this process."""
    return all(environment.get(name, "") for name in LAUNCHED)


@contextmanager
def joined(cuda: bool) -> Iterator[Place]:
    """Meet the other processes that torchrun has started; inside, they train together.

    cuda: whether this rank's tensors lie on the GPU of its number on this machine (nccl), or on the CPU (gloo).
    """
    if cuda:
        torch.cuda.set_device(number_here())
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if os.environ.get("GROUP_WORLD_SIZE") == "1":  # torchrun on one machine
        # its store outlives a restart: without names of their own, processes may call addresses of those that died
        store, at, count = next(dist.rendezvous("env://", timeout=_PATIENCE))  # type: ignore[attr-defined]
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"hardlab/attempt-{attempt}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=at, world_size=count, timeout=_STEP)
    else:
        dist.init_process_group(backend, timeout=_STEP)
    patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    token = _place.set(Place(dist.get_rank(), dist.get_world_size(), True, patient))
    try:
        yield _place.get()
        dist.destroy_process_group()  # after an error the others may be gone, and it would wait for them
    finally:
        _place.reset(token)


def number_here() -> int:
    """The number of this process among those on this machine, from 0, as its launcher says."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def here() -> int:
    """How many processes of those that train together are on this machine, as their launcher says."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if met() else 1


def lost(error: BaseException) -> bool:
    """Whether an error says that another rank is gone."""
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
    return size() > 1 and isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is as if it were the only one: it has the whole batch, and waits for nobody."""
    token = _place.set(Place(met=met()))
    try:
        yield
    finally:
        _place.reset(token)


def check_batch(batch_size: int, parts: int | None = None) -> None:
    """Refuse a batch that does not split into equal parts, by default one for each rank. Raises HardlabError."""
    parts = size() if parts is None else parts
    if batch_size % parts:
        fits = max(1, round(batch_size / parts)) * parts
        raise HardlabError(
            f"batch_size={batch_size} does not split into equal parts for {parts} processes: the nearest that does is "
            f"batch_size={fits}."
        )


# --------------------------------------------------------------------------------------------- rows and their numbers


def own(x: Tensor, dim: int = 0) -> Tensor:
    """This rank's rows of a whole batch: x (N,...) -> (N / size,...)."""
    at = _place.get()
    if at.size == 1:
        return x
    return x[(slice(None),) * dim + (slice(at.rank, None, at.size),)]


def draw(numbers: Callable[[int], Tensor], n: int, dim: int = 0) -> Tensor:
    """Random numbers of this rank's ``n`` rows, as part of those that ``numbers`` draws for all rows of the batch.

    numbers: a number of rows -> a tensor with as many along ``dim``.
    """
    return own(numbers(n * size()), dim)


def rand_like(x: Tensor) -> Tensor:
    """``torch.rand_like`` of this rank's rows x, as part of that of the whole batch, in the order of x in memory."""
    if size() == 1:
        return torch.rand_like(x)
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    lengths = [x.shape[d] * (size() if d == 0 else 1) for d in order]
    back = [order.index(d) for d in range(x.ndim)]
    return own(torch.rand(lengths, dtype=x.dtype, device=x.device).permute(back))


class _Whole(torch.autograd.Function):
    """The rows of all ranks in the order of the batch; what comes back to a row is the sum over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Place) -> Tensor:
        ctx.at = at
        parts = x.new_empty(at.size * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(parts, x.contiguous())
        return parts.unflatten(0, (at.size, -1)).transpose(0, 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        parts = outer[0].unflatten(0, (-1, ctx.at.size)).transpose(0, 1).contiguous()
        out = torch.empty_like(parts[0])
        dist.reduce_scatter_tensor(out, parts.flatten(0, 1))
        return out, None


def whole(x: Tensor) -> Tensor:
    """The rows of all ranks, x (n,...) -> (n * size,...), in the order of the batch, with gradient to each.

    A gradient adds up what all ranks send back, so that the mean over the ranks of losses of own rows, or of as many
    equal losses of all rows, has the gradient of the one loss.
    """
    at = _place.get()
    return x if at.size == 1 else _Whole.apply(x, at)


def taken(x: Tensor, which: Tensor) -> Tensor:
    """The own rows of x[which], with x (n,...) this rank's rows and ``which`` (N,) rows of the whole batch."""
    return own(whole(x)[which])


# ------------------------------------------------------------------------------------------------ numbers in common


def averaged(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The means over the ranks of tensors, without gradient, in one exchange; None stays None."""
    if size() == 1:
        return list(tensors)
    given = [t.detach() for t in tensors if t is not None]
    if not given:
        return list(tensors)
    flat = torch.cat([t.reshape(-1) for t in given])
    dist.all_reduce(flat)
    flat /= size()
    parts = iter(flat.split([t.numel() for t in given]))
    return [None if t is None else torch.empty_like(t).copy_(next(parts).view(t.shape)) for t in tensors]


def mean(x: Tensor) -> Tensor:
    """The mean of x over the ranks, without gradient."""
    if size() == 1:
        return x
    out = x.detach().clone()
    dist.all_reduce(out)
    return out / size()


def largest(x: Tensor) -> Tensor:
    """The largest x of all ranks, without gradient."""
    if size() == 1:
        return x
    out = x.detach().clone()
    dist.all_reduce(out, dist.ReduceOp.MAX)
    return out


def any_of(flag: bool) -> bool:
    """Whether the flag is set on any rank; they agree on the answer."""
    if size() == 1:
        return flag
    answer = torch.tensor(int(flag))
    dist.all_reduce(answer, dist.ReduceOp.MAX)
    return bool(answer)


class AnyOf:
    """``any_of``, answered when asked the next time: by then the exchange is over, and nobody waits for it.

    All ranks ask equally often. A flag must stay set.
    """

    def __init__(self) -> None:
        self._asked: tuple[Any, Tensor] | None = None

    def __call__(self, flag: bool) -> bool:
        if size() == 1:
            return flag
        if self._asked is not None:
            exchange, answer = self._asked
            exchange.wait()
            self._asked = None
            if bool(answer):
                return True
        answer = torch.tensor(int(flag))
        self._asked = dist.all_reduce(answer, dist.ReduceOp.MAX, async_op=True), answer
        return False


def same(*tensors: Tensor) -> None:
    """Overwrite tensors by those of the first rank."""
    if size() > 1:
        for t in tensors:
            part = t.detach().contiguous()
            dist.broadcast(part, 0)
            t.detach().copy_(part)


def from_first(f: Callable[[], T]) -> T:
    """What ``f`` returns on the first rank, which alone calls it; its error is raised on every rank."""
    if size() == 1:
        return f()
    box: list[Any] = [None]
    error: BaseException | None = None
    if writes():
        try:
            box = [(f(), None)]
        except Exception as e:
            error = e
            box = [(None, _sendable(e))]
    dist.broadcast_object_list(box, 0, group=_place.get().patient)
    if error is not None:
        raise error
    answer, sent = box[0]
    if sent is not None:
        sent.printed_by_first = True
        raise sent
    return answer


def _sendable(error: Exception) -> Exception:
    try:
        if isinstance(pickle.loads(pickle.dumps(error)), HardlabError):
            return error
    except Exception:  # an error whose constructor takes something else than its message
        pass
    return RuntimeError(f"the first process failed: {type(error).__name__}: {error}")
