"""Row A: two views of 32 pixels against lightly's loader and kornia, and their share of a step; ``run()`` gives rows.

Same distribution everywhere: crop area 0.08 to 1, flip, jitter 0.4/0.4/0.4/0.1 with p = 0.8, gray 0.2, no blur,
normalised. Run as ``python -m benchmarks.bench_views [rounds]``.
"""

from __future__ import annotations

import json
import sys
from typing import Any, cast

import kornia.augmentation as K
import torch
from lightly.transforms.simclr_transform import SimCLRTransform
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_pil_image

from benchmarks.bench_train import LOW, MEAN, STD, Ours
from benchmarks.timing import Seconds, interleaved, skipped
from hardlab import data
from hardlab.types import Batch
from hardlab.views import PRESETS, Look

COUNT, BATCH, PASSES = 2048, 256, 4


class Pictures(torch.utils.data.Dataset[Any]):
    """PIL images in memory under lightly's SimCLR transform: what its loader does once files are decoded."""

    def __init__(self, raw: Tensor) -> None:
        self.pictures = [to_pil_image(x) for x in raw]
        self.transform = SimCLRTransform(
            input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize={"mean": list(MEAN), "std": list(STD)}
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> list[Tensor]:
        views = cast(list[Tensor], self.transform(self.pictures[i]))
        return views


def run(rounds: int = 5) -> list[dict[str, Any]]:
    """Rows of name, value, unit, peer, ratio, target, ok; 2 threads, medians of interleaved rounds after a warm-up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return _run(rounds)
    finally:
        torch.set_num_threads(threads)


def _run(rounds: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    raw = next(data.load("shapes").batches(torch.arange(COUNT)[None])).raw
    batches = raw.split(BATCH)
    look, sizes, index = Look(PRESETS["simclr_cifar"], MEAN, STD), torch.full((BATCH, 2), 32), torch.arange(BATCH)
    loader = DataLoader(Pictures(raw), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    chain = K.AugmentationSequential(
        K.RandomResizedCrop((32, 32), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), cropping_mode="resample"),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input"],
    )

    def ours() -> None:
        for _ in range(PASSES):  # one pass would be too short to time
            for x in batches:
                look.render(look.views(Batch(x, sizes, index), 2))

    def lightly() -> None:
        for _ in loader:
            pass

    def kornia() -> None:
        with torch.no_grad():
            for x in batches:
                for _ in range(2):
                    chain(x.float() / 255)

    seconds, _ = interleaved({"hardlab": ours, "lightly": lightly, "kornia": kornia}, rounds)
    once = Seconds([s / PASSES for s in seconds["hardlab"].rounds])
    each = once / (2 * COUNT)
    rows = []
    for peer, name, target in (("lightly", "lightly, PIL, 2 workers", 4.0), ("kornia", "kornia, batched", 2.5)):
        ratio = seconds[peer] / once
        rows.append(
            {"name": "augmentation, 2 views of 32 px", "value": each * 1e6, "unit": "us/view", "peer": name}
            | {"ratio": ratio, "target": target, "ok": ratio >= target}
        )
    if not LOW:
        return [*rows, skipped("share of augmentation in a bf16 step of ResNet-20")]
    # a step keeps freed pages for the rest of the process, hence last
    step = Ours("tiny", "bf16", loader=False)
    together, _ = interleaved(
        {"views": lambda: step.look.render(step.look.views(step.fixed, 2)), "step": step.step}, 3 * rounds
    )
    share = together["views"] / together["step"]
    rows.append(
        {"name": "share of augmentation in a bf16 step of ResNet-20", "value": share, "unit": "", "peer": "at most"}
        | {"ratio": None, "target": 0.05, "ok": share <= 0.05}
    )
    return rows


if __name__ == "__main__":
    for row in run(*(int(a) for a in sys.argv[1:])):
        print(json.dumps(row))
