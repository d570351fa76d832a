"""A spatial transformer as adversary (arXiv 2310.03940, App. E): a network learns the crops that are hardest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from hardlab import ranks, transfer
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Player, Step
from hardlab.numbers import Decay, Positive, Rate, Units, Weight, whole
from hardlab.types import HardlabError, Progress, Rendered, unit
from hardlab.views import Look

Mode = Literal[
    "translation", "scale", "scale-sym", "rotation", "translation-scale", "translation-scale-sym",
    "rotation-translation", "rotation-translation-scale", "rotation-translation-scale-sym", "affine",
]  # fmt: skip
_IDENTITY = {"rotation": [0.0], "translation": [0.0, 0.0], "scale-sym": [1.0], "scale": [1.0, 1.0]}
_SHOWN = 8  # fixed images of a snapshot


class Localiser(nn.Module):
    """A small CNN with one head per crop: images (N,3,S,S) -> (N,crops,numbers), initially ``start`` for all images.

    The layers of the authors' STN code; the paper says a small CNN with a linear layer.
    """

    def __init__(self, crops: int, start: list[float], width: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=2), nn.BatchNorm2d(width), nn.LeakyReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=2), nn.BatchNorm2d(width), nn.LeakyReLU(), nn.AdaptiveAvgPool2d(8),
            nn.Flatten(),
        )  # fmt: skip
        self.heads = nn.ModuleList()
        for _ in range(crops):
            last = nn.Linear(hidden // 2, len(start))
            nn.init.zeros_(last.weight)
            last.bias.data = torch.tensor(start)
            self.heads.append(
                nn.Sequential(
                    nn.Linear(64 * width, hidden), nn.LeakyReLU(), nn.Linear(hidden, hidden // 2), nn.LeakyReLU(), last
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return torch.stack([head(features) for head in self.heads], 1)


class STN(Hard):
    """Takes crops from a network that ascends the loss; flips and appearance stay random. HVS, App. E, Table 5.

    mode: the transforms that theta (2,3) may hold; ``-sym`` scales both axes alike.
    penalty: ``tcp`` regresses |det| of the 2x2 block to an area from the augmentation's range, and the share of the
        image that a shift leaves (the code); ``area`` is the first part as a squared error (the text); ``identity`` is
        the squared distance of theta to the identity; ``none``.
    weight: of the penalty, 10 by default.
    target: an area drawn ``uniform`` per crop and step, or the ``mean`` of the range.
    limit: ``image`` divides each row of theta by its L1 norm where that exceeds 1, so that a crop lies in the image
        (the code); ``sphere`` keeps the numbers near those of the identity (the text); ``none``.
    radius, local_radius: of that sphere, for large views and small crops.
    optim, lr, weight_decay, schedule: of the STN's own optimiser, ``adamw`` or ``sgd``, ``cosine`` or ``constant``.
    width, hidden: of the CNN.
    input_size: pixels of a side of its input.
    """

    draws = 2  # it chooses the large views, so no other strategy may; the method's number once installed
    SMALL: Mapping[str, Any] = {"width": 4, "hidden": 8}

    def __init__(
        self,
        mode: Mode = "translation-scale-sym",
        penalty: Literal["tcp", "area", "identity", "none"] = "tcp",
        weight: Weight = 10.0,
        target: Literal["uniform", "mean"] = "uniform",
        limit: Literal["image", "sphere", "none"] = "image",
        radius: Positive = 0.5,
        local_radius: Positive = 1.0,
        optim: Literal["adamw", "sgd"] = "adamw",
        lr: Rate = 5e-4,
        weight_decay: Decay = 0.0,
        schedule: Literal["cosine", "constant"] = "cosine",
        width: Units = 32,
        hidden: Annotated[int, whole(2, 65536)] = 128,
        input_size: Annotated[int, whole(4, 4096)] = 32,
    ) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("weight_decay", weight_decay)):
            if value < 0:
                raise HardlabError(f"STN with {name}={value}: it must be at least 0.")
        for name, value in (("lr", lr), ("radius", radius), ("local_radius", local_radius)):
            if value <= 0:
                raise HardlabError(f"STN with {name}={value}: it must be above 0.")
        if width < 1 or hidden < 2 or input_size < 4:
            raise HardlabError(
                f"STN with width={width}, hidden={hidden}, input_size={input_size}: at least 1, 2 and 4 pixels."
            )
        self.mode, self.penalty, self.weight, self.target = mode, penalty, weight, target
        self.limit, self.radius, self.local_radius = limit, radius, local_radius
        self.optim, self.lr, self.weight_decay, self.schedule = optim, lr, weight_decay, schedule
        self.width, self.hidden, self.input_size = width, hidden, input_size
        self.large = 2
        self.net: Localiser | None = None
        self._opt: Optimizer | None = None

    def install(self, method: Method) -> None:
        """Make the network, with one head for each of the method's crops."""
        super().install(method)
        self.large, self.draws = method.slots, method.slots
        self.net = Localiser(method.slots + method.locals, start_of(self.mode), self.width, self.hidden)

    def before_step(self, at: Progress) -> None:
        if self.schedule == "cosine" and self._opt is not None:
            for group in self._opt.param_groups:
                group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * at.share))

    def views(self, step: Step) -> None:
        """Render the views that the network chooses, with a gradient to it.

        In ``params`` a crop's columns become the bounding box of its affine crop within the image, of at least one
        pixel, so that overlaps can be analysed; they cannot reproduce the view.
        """
        v, look = step.views, step.look
        theta = self.theta(v.raw, v.sizes, look)
        step.kept[self.name] = theta, self.weight * self.cost(theta, look)
        drawn = v.params if v.local_params is None else torch.cat((v.params, v.local_params), 1)
        raw = unit(v.raw)
        x = []
        for i, (part, p) in enumerate(zip(self._looks(look), drawn.split(1, 1), strict=True)):
            size = part.augment[0].size
            whole = p.clone()  # already cropped; flip and appearance stay as drawn
            whole[..., 2:4] = 0
            whole[..., 0:2] = whole[..., 4:6] = size
            x.append(part.apply(sample(raw, v.sizes, theta[:, i], size), whole)[:, 0])
        boxed = bounding_box(theta.detach(), drawn)
        n = self.large
        local = None if v.local_params is None else boxed[:, n:]
        boxes = replace(v.drawn(), params=boxed[:, :n], local_params=local)
        step.views = Rendered.of(boxes, torch.stack(x[:n]).transpose(0, 1), x[n:])

    def theta(self, raw: Tensor, sizes: Tensor, look: Look) -> Tensor:
        """The transforms theta (B,crops,2,3) of all crops, predicted from the plain images."""
        assert self.net is not None, "install comes first"
        with torch.autocast(raw.device.type, enabled=False):  # bf16 cannot resolve neighbouring pixels
            numbers = self.net(look.plain(raw, sizes, self.input_size))
            if self.limit == "sphere":
                numbers = self.confine(numbers)
            theta = matrices(numbers, self.mode)
            if self.limit == "image":
                norm = theta.abs().sum(-1, keepdim=True)
                # not clamp: at the identity, where the norm is 1, it would leave the scale without a gradient
                theta = theta / torch.where(norm > 1, norm, 1.0)
        return theta

    def confine(self, numbers: Tensor) -> Tensor:
        """Project numbers (B,crops,k) onto the ball around the identity's numbers, with the radius of their slot."""
        centre = transfer.constant(start_of(self.mode), numbers)
        radius = numbers.new_full((numbers.shape[1], 1), self.local_radius)
        radius[: self.large] = self.radius
        offset = numbers - centre
        return centre + offset * (radius / offset.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1)

    def cost(self, theta: Tensor, look: Look) -> Tensor:
        """The penalty of theta (B,crops,2,3), a scalar, without its weight."""
        if self.penalty == "none":
            return theta.new_zeros(())
        if self.penalty == "identity":
            return (theta - torch.eye(2, 3, device=theta.device)).square().mean()
        looks = enumerate(self._looks(look))
        low, high = transfer.constant([part.augment[i % len(part.augment)].scale for i, part in looks], theta).T
        area = share_of_image(theta)
        target = self._between(area, low, high)
        if self.penalty == "area":
            return F.mse_loss(area, target)
        across, down = (1 - theta[..., 2].abs() / 2).unbind(-1)
        stays = across * down  # (B,crops); the gradient of torch's `prod` would wait for the device
        # the eighth root, which narrows the range to shifts near the centre, is the authors'
        return F.huber_loss(area, target) + F.huber_loss(stays, self._between(area, low**0.125, high**0.125))

    def _between(self, like: Tensor, low: Tensor, high: Tensor) -> Tensor:
        share = ranks.rand_like(like) if self.target == "uniform" else torch.full_like(like, 0.5)
        return low + (high - low) * share

    def _looks(self, look: Look) -> list[Look]:
        """The look of each crop, the large ones first."""
        assert self.net is not None
        small = len(self.net.heads) - self.large
        return [look] * self.large + [look.local[i % len(look.local)] for i in range(small)]

    def players(self, method: Method) -> list[Player]:
        """The network as a player: it minimises the learner's negated loss, on the learner's graph, and the penalty."""
        assert self.net is not None
        params: list[Tensor] = list(self.net.parameters())
        kind: Callable[..., Optimizer] = AdamW if self.optim == "adamw" else SGD
        self._opt = kind(params, lr=self.lr, weight_decay=self.weight_decay)
        return [Player("stn", params, self._opt, self.objective, joint=True)]

    def objective(self, step: Step) -> Tensor:
        """Gradient reversal: - (the method's mean loss) + weight * penalty."""
        _, cost = step.kept[self.name]
        return cost - step.out.loss.mean()

    def after_step(self, step: Step) -> None:
        step.kept[self.name] = tuple(x.detach() for x in step.kept[self.name])  # releases the graph

    def logs(self, step: Step) -> Mapping[str, float]:
        """penalty (weighted); areas of the large and the small crops; spread: std of theta over images, 0 = static."""
        theta, cost = step.kept[self.name]
        area = share_of_image(theta)
        numbers = {
            "penalty": float(cost),
            "area": float(area[:, : self.large].mean()),
            "spread": float(theta.std(0).mean()),
        }
        return numbers | ({"area_local": float(area[:, self.large :].mean())} if area.shape[1] > self.large else {})

    @torch.no_grad()
    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        """theta (8,crops,2,3) of the first images, and their crops ``view_<slot>`` in [0,1] without augmentation."""
        assert self.net is not None
        batch = next(iter(images.all(min(_SHOWN, len(images)))))
        self.net.eval()
        try:
            theta = self.theta(batch.raw, batch.sizes, look)
        finally:
            self.net.train()
        shown = {
            f"view_{i}": sample(batch.raw, batch.sizes, theta[:, i], part.augment[0].size)
            for i, part in enumerate(self._looks(look))
        }
        return {"index": batch.index, "theta": theta} | shown


def start_of(mode: str) -> list[float]:
    """The numbers of a mode for which theta is the identity."""
    if mode == "affine":
        return [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    words = mode.replace("scale-sym", "scale_sym").split("-")
    return [number for word in words for number in _IDENTITY[word.replace("_", "-")]]


def matrices(numbers: Tensor, mode: str) -> Tensor:
    """(...,k) numbers of a mode, in the order of its words -> theta (...,2,3) = (scale x rotation | translation)."""
    if mode == "affine":
        return numbers.unflatten(-1, (2, 3))
    rest = numbers
    one, zero = torch.ones_like(numbers[..., 0]), torch.zeros_like(numbers[..., 0])
    cos, sin, tx, ty, sx, sy = one, zero, zero, zero, one, one
    if "rotation" in mode:
        cos, sin, rest = rest[..., 0].cos(), rest[..., 0].sin(), rest[..., 1:]
    if "translation" in mode:
        tx, ty, rest = rest[..., 0], rest[..., 1], rest[..., 2:]
    if "scale" in mode:
        sx, sy = rest[..., 0], rest[..., -1]  # one and the same where scaling is symmetric
    return torch.stack((sx * cos, -sx * sin, tx, sy * sin, sy * cos, ty), -1).unflatten(-1, (2, 3))


def share_of_image(theta: Tensor) -> Tensor:
    """The area of affine crops theta (...,2,3), as a share of the image's: |det| of the 2x2 block."""
    (a, b), (c, d) = (row.unbind(-1) for row in theta[..., :2].unbind(-2))
    return (a * d - b * c).abs()  # written out: the gradient of torch's `det` reads values, which waits for a device


def sample(raw: Tensor, sizes: Tensor, theta: Tensor, size: int) -> Tensor:
    """Affine crops (B,3,size,size) in [0,1] of raw (B,3,H,W), bilinear, with a gradient to theta (B,2,3).

    The square [-1,1]^2 is the image, of true height and width ``sizes`` (B,2); an output pixel reads at theta (x,y,1),
    and what lies outside is black. Jaderberg et al. (arXiv 1506.02025), Eq. 1.
    """
    with torch.autocast(raw.device.type, enabled=False):
        grid = F.affine_grid(theta, [len(raw), 3, size, size], align_corners=False)  # (B,size,size,2) of x, y
        inside = (grid.abs() <= 1).all(-1)[:, None]
        extent = sizes.flip(1).to(grid)[:, None, None]  # (B,1,1,2) width, height
        at = (grid + 1) / 2 * extent
        at = torch.minimum(at.clamp_min(0.5), extent - 0.5)  # up to the border the outermost pixels count, as in Look
        full = transfer.constant([raw.shape[3], raw.shape[2]], grid)
        return F.grid_sample(unit(raw), at / full * 2 - 1, align_corners=False) * inside


def bounding_box(theta: Tensor, params: Tensor) -> Tensor:
    """``params`` (B,C,P) with the crop's columns replaced by the box around the affine crop theta (B,C,2,3)."""
    centre, reach = theta[..., 2].flip(-1), theta[..., :2].abs().sum(-1).flip(-1)  # (B,C,2) of y, x
    image = params[..., 0:2]
    low = torch.minimum(((centre - reach + 1) / 2 * image).clamp_min(0), image - 1)
    high = torch.minimum(torch.maximum((centre + reach + 1) / 2 * image, low + 1), image)
    boxed = params.clone()
    boxed[..., 2:4], boxed[..., 4:6] = low, high - low
    return boxed
