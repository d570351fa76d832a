"""Frozen features of a data set, the input of most evaluation protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from hardlab.registry import unknown
from hardlab.types import Batch, HardlabError
from hardlab.views import Augment, Look

if TYPE_CHECKING:
    from hardlab.data import Images

# name -> augmentation of a classifier's training images: none, or torchvision's crop and flip alone
AUGMENTS: dict[str, Augment | None] = {
    "none": None,
    "rrc-flip": Augment(size=224, scale=(0.08, 1.0), flip=0.5, jitter_p=0.0, gray=0.0),
}
Crop = Literal["whole", "centre"]
MOST_CLASSES = 10**6  # a table of scores has a column per class


class Features(NamedTuple):
    """Frozen features of the training and test images of a data set.

    train_f (N,D), train_y (N,), test_f (Q,D), test_y (Q,). train_hot (N,C), test_hot (Q,C): int8 for sets with several
    labels per image (1, 0, -1 = difficult only), else None. classes: their names.
    """

    train_f: Tensor
    train_y: Tensor
    test_f: Tensor
    test_y: Tensor
    train_hot: Tensor | None = None
    test_hot: Tensor | None = None
    classes: tuple[str, ...] = ()


def extract(
    encode: Callable[[Tensor], Tensor],
    data: Images,
    look: Look,
    *,
    batch_size: int = 500,
    size: int | None = None,
    precision: str = "fp32",
    crop: Crop = "whole",
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Features (N,D) float32 and targets (N,) of every image, by a frozen ``encode`` of un-augmented pixels.

    encode: (B,3,S,S) channels_last -> (B,D), usually ``method.backbone``; every module that it runs is in eval mode
        meanwhile.
    size: side S of the pixels; None = the look's own.
    precision: of the network, "fp32" or "bf16" (autocast).
    crop: the whole image, or the centred square of 224 / 256 of its shorter side.
    rows: rows (N,) of the data set; None = all.

    The results are on the device of the batches. Raises HardlabError.
    """
    if precision not in ("fp32", "bf16"):
        raise HardlabError(f"precision is 'fp32' or 'bf16', not {precision!r}.")
    if batch_size < 1:
        raise HardlabError(f"batch_size must be at least 1, not {batch_size}.")
    if len(data) == 0:
        raise HardlabError(f"{data.name}, split {data.split}, has no images to extract features from.")
    features: Tensor | None = None
    render = look.plain if crop == "whole" else look.central
    batches = data.all(batch_size) if rows is None else data.batches(rows.split(batch_size))
    place = torch.arange(len(data))  # the position of each row of the data set in the result
    if rows is not None:
        place[rows] = torch.arange(len(rows))
    for batch in batches:
        f = _encoded(encode, render(batch.raw, batch.sizes, size), precision)
        if features is None:
            features = f.new_empty((len(data) if rows is None else len(rows), f.shape[1]), dtype=torch.float32)
            place = place.to(f.device)
        features[place[batch.index.to(f.device)]] = f
    assert features is not None
    targets = data.targets if rows is None else data.targets[rows]
    return features, targets.to(features.device)


def _encoded(encode: Callable[[Tensor], Tensor], x: Tensor, precision: str) -> Tensor:
    """Encode (B,3,S,S) as (B,D) float32 without gradient."""
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), _eval_mode(encode), torch.autocast(x.device.type, torch.bfloat16, precision == "bf16"):
        f = encode(x)
    if f.ndim != 2:
        raise HardlabError(f"features must be (batch, D), but the encoder gave {tuple(f.shape)}: pool them first.")
    return f.float()


class Rendered:
    """Renders training pixels (B,3,S,S) of batches, with an augmentation of ``AUGMENTS`` or plain.

    look: whose mean, deviation and plain rendering are used. size: S; None = the look's own. seed: of the draws.
    """

    def __init__(self, augment: str, look: Look, size: int | None, crop: Crop, seed: int) -> None:
        if augment not in AUGMENTS:
            raise unknown("augmentation", augment, AUGMENTS, "A classifier")
        drawn = AUGMENTS[augment]
        self.look = look if drawn is None else Look(drawn.but(size=size or look.augment[0].size), look.mean, look.std)
        self.plain = drawn is None
        self.size, self.crop = size, crop
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, batch: Batch) -> Tensor:
        if self.plain:
            render = self.look.plain if self.crop == "whole" else self.look.central
            return render(batch.raw, batch.sizes, self.size)
        return self.look.apply(batch.raw, self.look.draw(batch.sizes, 1, self.generator))[:, 0]

    def features(
        self, encode: Callable[[Tensor], Tensor], data: Images, precision: str = "fp32"
    ) -> Callable[[Sequence[Tensor]], Iterator[Tensor]]:
        """A function from the rows of each batch to their frozen features (B,D), with new views at every call."""

        def fresh(order: Sequence[Tensor]) -> Iterator[Tensor]:
            for batch in data.batches(order):
                yield _encoded(encode, self(batch), precision)

        return fresh


def pixels(
    data: Images, look: Look, *, batch_size: int = 500, size: int | None = None, crop: Crop = "whole"
) -> tuple[Tensor, Tensor]:
    """Plain pixels as features (N,3*S*S), channel by channel, with targets (N,): the baseline without a network."""
    return extract(lambda x: x.flatten(1), data, look, batch_size=batch_size, size=size, crop=crop)


def unit(f: Tensor) -> Tensor:
    """Scale rows (N,D) of any scale and type to length 1 in float32; a row of zeros stays as it is."""
    x = f.float().contiguous()
    length = x.norm(dim=1, keepdim=True)
    out = x / length.clamp_min(1e-12)
    # squares that overflow or underflow float32
    odd = ~((length[:, 0] > 1e-12) & (length[:, 0] < 1e18))
    if odd.any():
        rows = f[odd].double()
        top = rows.abs().amax(1, keepdim=True)
        rows = rows / torch.where(top > 0, top, 1.0)
        out[odd] = (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).float()
    return out


def largest(f: Tensor) -> float:
    """The largest absolute value in a tensor of finite numbers."""
    low, high = f.aminmax()
    return max(abs(float(low)), abs(float(high)))


def check_features(train_f: Tensor, train_y: Tensor, test_f: Tensor, test_y: Tensor | None = None) -> int:
    """Check the input of a protocol and return its number of classes C. Raises HardlabError.

    train_f (N,D), test_f (Q,D) finite; train_y (N,), test_y (Q,) int64 in 0..C-1, where C is the largest training label
    plus one, at most ``MOST_CLASSES``, and every test label occurs in training.
    """
    for part, f, y in (("training", train_f, train_y), ("test", test_f, test_y)):
        for quantity, tensor in (("features", f), ("labels", y)):
            if tensor is not None and (not isinstance(tensor, Tensor) or tensor.layout != torch.strided):
                kind = f"a sparse tensor ({tensor.layout})" if isinstance(tensor, Tensor) else type(tensor).__name__
                raise HardlabError(f"{part} {quantity} must be a dense torch tensor, not {kind}.")
        if f.ndim != 2 or len(f) == 0:
            raise HardlabError(f"{part} features must be (samples, D) with at least 1 sample, not {tuple(f.shape)}.")
        if f.shape[1] == 0 or f.is_complex():
            raise HardlabError(
                f"{part} features {tuple(f.shape)} of {f.dtype} are not real numbers, at least one per sample."
            )
        # a mask takes thirty times as long, and is needed only if a sum of large numbers overflows
        if not f.sum(dtype=torch.float32).isfinite() and not f.isfinite().all():
            raise HardlabError(f"{part} features hold NaN or infinity: the network that made them has diverged.")
        if y is None:
            continue
        if y.shape != f.shape[:1]:
            raise HardlabError(
                f"{len(f)} {part} features came with labels of shape {tuple(y.shape)}: one label per sample is needed."
            )
        if y.dtype != torch.int64:
            raise HardlabError(f"labels must be whole numbers of type int64, but those of the {part} are {y.dtype}.")
        if (y < 0).any():
            raise HardlabError(
                f"{int((y < 0).sum())} of {len(y)} {part} samples have no label (-1): they cannot be evaluated."
            )
    if train_f.shape[1] != test_f.shape[1]:
        raise HardlabError(f"training features have {train_f.shape[1]} columns and test features {test_f.shape[1]}.")
    labels = train_y.unique()
    if labels[-1] >= MOST_CLASSES:
        raise HardlabError(f"the label {int(labels[-1])} is too large: number the classes from 0 on, without gaps.")
    if len(labels) < 2:
        raise HardlabError(
            f"all {len(train_y)} training samples have the label {int(labels[0])}: 2 classes are needed."
        )
    if test_y is not None and (new := ~torch.isin(test_y, labels)).any():
        strange = ", ".join(str(int(y)) for y in test_y[new].unique()[:5])
        raise HardlabError(f"classes differ: test label {strange} never occurs among the training labels.")
    return int(labels[-1]) + 1


@contextmanager
def _eval_mode(encode: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put every module that runs inside in eval mode: ``encode`` may be a module, its method, or a closure over it."""
    switched: list[nn.Module] = []

    def off(module: nn.Module, _: Any = None) -> None:
        if module.training:
            switched.append(module)
            module.training = False

    owner = getattr(encode, "__self__", encode)
    if isinstance(owner, nn.Module):
        for module in owner.modules():
            off(module)
    hook = register_module_forward_pre_hook(off)  # a closure does not say which modules it calls
    try:
        yield
    finally:
        hook.remove()
        for module in switched:
            module.training = True
