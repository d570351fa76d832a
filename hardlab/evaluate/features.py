"""Frozen features of a data set: what every evaluation protocol starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from hardlab.types import HardlabError

if TYPE_CHECKING:
    from hardlab.data import Images
    from hardlab.views import Look


def extract(
    encode: Callable[[Tensor], Tensor],
    data: Images,
    look: Look,
    *,
    batch_size: int = 500,
    size: int | None = None,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """Features (N,D) float32 and targets (N,) of every image, by a frozen ``encode`` of un-augmented pixels.

    encode: (B,3,S,S) channels_last -> (B,D), usually ``method.backbone``; every module that runs in it is in eval mode
    meanwhile, and back in its own mode afterwards. size: side S of the pixels; None = the look's own. precision: what
    the network computes in, "fp32" or "bf16" (autocast). Row i is the data set's row i, on the device of the batches.
    """
    if precision not in ("fp32", "bf16"):
        raise HardlabError(f"precision is 'fp32' or 'bf16', not {precision!r}.")
    if batch_size < 1:
        raise HardlabError(f"batch_size must be at least 1, not {batch_size}.")
    if len(data) == 0:
        raise HardlabError(f"{data.name}, split {data.split}, has no images to extract features from.")
    features: Tensor | None = None
    with torch.no_grad(), _eval_mode(encode):
        for batch in data.all(batch_size):
            x = look.plain(batch.raw, batch.sizes, size).contiguous(memory_format=torch.channels_last)  # (B,3,S,S)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
                f = encode(x)
            if f.ndim != 2:
                raise HardlabError(
                    f"features must be (batch, D), but the encoder gave {tuple(f.shape)}: pool them first."
                )
            if features is None:
                features = f.new_empty((len(data), f.shape[1]), dtype=torch.float32)
            features[batch.index] = f.float()
    assert features is not None
    return features, data.targets.to(features.device)


def pixels(data: Images, look: Look, *, batch_size: int = 500, size: int | None = None) -> tuple[Tensor, Tensor]:
    """The plain pixels as features (N,3*S*S), channel by channel, with targets (N,): the baseline without a network."""
    return extract(lambda x: x.flatten(1), data, look, batch_size=batch_size, size=size)


def check_features(train_f: Tensor, train_y: Tensor, test_f: Tensor, test_y: Tensor | None = None) -> int:
    """The number of classes C of what a protocol is given; HardlabError where it cannot be evaluated.

    train_f (N,D), test_f (Q,D) finite; train_y (N,), test_y (Q,) int64 in 0..C-1, where C is the largest training label
    plus one, and every test label occurs in training.
    """
    for part, f, y in (("training", train_f, train_y), ("test", test_f, test_y)):
        if f.ndim != 2 or len(f) == 0:
            raise HardlabError(f"{part} features must be (samples, D) with at least 1 sample, not {tuple(f.shape)}.")
        if not f.sum(dtype=torch.float32).isfinite():  # a mask would take thirty times as long
            raise HardlabError(f"{part} features hold NaN or infinity: the network that made them has diverged.")
        if y is None:
            continue
        if y.shape != f.shape[:1]:
            raise HardlabError(
                f"{len(f)} {part} features came with labels of shape {tuple(y.shape)}: one each is needed."
            )
        if (y < 0).any():
            raise HardlabError(
                f"{int((y < 0).sum())} of {len(y)} {part} samples have no label (-1): it cannot be evaluated."
            )
    if train_f.shape[1] != test_f.shape[1]:
        raise HardlabError(f"training features have {train_f.shape[1]} columns and test features {test_f.shape[1]}.")
    known = train_y.unique()
    if len(known) < 2:
        raise HardlabError(f"all {len(train_y)} training samples have the label {int(known[0])}: 2 classes are needed.")
    if test_y is not None and (new := ~torch.isin(test_y, known)).any():
        strange = ", ".join(str(int(y)) for y in test_y[new].unique()[:5])
        raise HardlabError(f"classes differ: test label {strange} never occurs among the training labels.")
    return int(known[-1]) + 1


@contextmanager
def _eval_mode(encode: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Eval mode for whatever module runs inside, whether ``encode`` is the module, its method, or a closure over it."""
    switched: list[nn.Module] = []

    def off(module: nn.Module, _: Any = None) -> None:
        if module.training:
            switched.append(module)
            module.training = False

    owner = getattr(encode, "__self__", encode)
    if isinstance(owner, nn.Module):
        for module in owner.modules():
            off(module)
    hook = register_module_forward_pre_hook(off)  # a closure does not tell what it will call
    try:
        yield
    finally:
        hook.remove()
        for module in switched:
            module.training = True
