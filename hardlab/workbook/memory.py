"""Memory and arithmetic of a training step, calculated without numbers: the trainer runs on tensors of shapes alone.

Every tensor of a step counts from its making to its end, as torch's allocator on a GPU would hold it. Not counted are
the workspaces of cuDNN and cuBLAS, gaps between blocks, and the CUDA context.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from hardlab import build, data, machine, players, train, transfer
from hardlab.config import Run
from hardlab.data.base import SMALL_BYTES
from hardlab.errors import HardlabError
from hardlab.types import Batch
from hardlab.workbook import plan

_BLOCK = 512  # torch's allocator gives multiples of it
_LARGEST_SIDE = 512  # pixels, to which larger images are shrunk: the default of ``data.load``
IMAGENET = (1000, 1_281_167)  # classes and training images


class Cost(NamedTuple):
    """Bytes on a GPU at the peak of a step, by part, and floating-point operations per image.

    images: the pixels of a data set that is kept in memory. networks: weights, momentum networks, banks and queues.
    optimiser: gradients, the optimisers' state and the pixels of a batch. activations: what else lives at the peak,
    such as activations, views and temporary results.
    """

    images: int
    networks: int
    optimiser: int
    activations: int
    flops: float

    @property
    def peak(self) -> int:
        return self.images + self.networks + self.optimiser + self.activations


class Tally(TorchDispatchMode):
    """Counts the bytes of all tensors that live, and floating-point operations.

    now, peak: bytes. flops: of matrix products, convolutions and attention, by torch's formulas.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.flops = 0.0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return int(args[0].dtype is not torch.bool)  # of a number that the host has drawn, such as a seed
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._add(value)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out

    def _add(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = -(-storage.nbytes() // _BLOCK) * _BLOCK
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def count(run: Run) -> int:
    """The number of training images of a run; of a set whose size is unknown beforehand, ImageNet's."""
    return plan.training_images(run.data) or round(IMAGENET[1] * run.data.fraction)


class _Unread:
    """Stands for images of which only the number, the classes and the size are known."""

    multi_hot = None
    in_memory = True

    def __init__(self, run: Run) -> None:
        classes = len(data.per_class(run.data.name) or range(IMAGENET[0]))
        side = data.KNOWN.get(run.data.name, (None, 0))[1]
        number = count(run)
        self.side = run.data.size or side or _LARGEST_SIDE
        self.classes = tuple(map(str, range(classes)))
        self.targets = torch.zeros(number, dtype=torch.long)
        small = 3 * number * self.side**2
        self.kept = small if side and small < SMALL_BYTES else 0  # pixels in memory

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Batch]:
        for rows in order:
            raw = torch.empty(len(rows), 3, self.side, self.side, dtype=torch.uint8)
            yield Batch(raw, torch.full((len(rows), 2), self.side), rows)


def calculate(run: Run) -> Cost:
    """The cost of a step in the middle of a run on a GPU, in bf16 unless it asks for fp32. Raises HardlabError."""
    build.check(run)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that copying on meta does nothing
            return _calculated(run)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as e:
        raise HardlabError(f"The memory of {run.id} cannot be calculated: {type(e).__name__}: {e}") from e


def _calculated(run: Run) -> Cost:
    method, hard = build.unmade(run)
    if run.parent is not None:
        networks = build.unmade(run.parent)[0].state_dict()
        for h in hard:
            h.start_from(run.parent.id, networks)
    for net in (method, *hard):
        machine.set_memory_format(net, torch.device("meta"), run.channels_last)
    validated = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)  # which reads values
    try:
        with transfer.without_values(), FakeTensorMode(allow_non_fake_inputs=True), Tally() as tally:
            made: dict[int, Tensor] = {}
            for net in (method, *hard):
                _without_values(net, made)
            images: Any = _Unread(run)
            method.on_start(images, run.batch_size)
            for h in hard:
                h.on_start(images, run.batch_size)
            parties = players.assemble(run, method, hard)
            precision: machine.Precision = "fp32" if run.precision == "fp32" else "bf16"
            generator: Any = None
            session = train.Session(
                run, torch.device("cpu"), precision, images, build.look(run), method.train(), hard, parties, generator
            )
            session.done = session.total // 2  # where every part has begun to act
            networks_size = tally.now
            batches = images.batches(torch.arange(2 * run.batch_size).view(2, -1))
            train.step(session, next(batches))  # makes the optimisers' state
            kept, tally.peak, tally.flops = tally.now, tally.now, 0.0  # as in the trainer's loop, no step is held
            train.step(session, next(batches))
    finally:
        torch.distributions.Distribution.set_default_validate_args(validated)
    flops = tally.flops / run.batch_size
    return Cost(images.kept, networks_size, kept - networks_size, tally.peak - kept, flops)


def _without_values(net: nn.Module, made: dict[int, Tensor]) -> None:
    """Replace the parameters and buffers of ``net`` by tensors of shapes alone, in place; shared ones stay shared."""
    for m in net.modules():
        for owned in (m._parameters, m._buffers):
            for name, value in owned.items():
                if value is None:
                    continue
                if id(value) not in made:
                    bare = torch.empty_like(value, device="cpu")
                    is_weight = isinstance(value, nn.Parameter)
                    made[id(value)] = nn.Parameter(bare, value.requires_grad) if is_weight else bare
                owned[name] = made[id(value)]  # type: ignore[assignment]
