"""Steps with HEXA's strategies on small methods."""

from __future__ import annotations

import torch
from steps import after

from hardlab import registry
from hardlab.hard.adversarial import Adversarial
from hardlab.types import Batch
from hardlab.views import PRESETS, Look

B = 16


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


OPTIONS = {
    "moco": {"queue": 64, "dim": 8, "groups": 2, "temperature": 0.2},
    "deepcluster": {"prototypes": 5, "hidden": 16, "dim": 8, "heads": 2},
    "simclr": {"dim": 8},
    "simsiam": {"dim": 16, "hidden": 4, "layers": 2},
    "dino": {"hidden": 16, "bottleneck": 8, "prototypes": 12},
}


def method(name, local=0):
    torch.manual_seed(0)
    made = registry.build("method", name, OPTIONS[name], registry.build("backbone", "tiny", {"width": 4}))
    made.multi_crop(local)
    made.on_start(range(64), B)
    if name == "deepcluster":
        made.centroids.copy_(torch.nn.functional.normalize(torch.randn_like(made.centroids), dim=2))
        made.assigned.copy_(torch.randint(0, 5, made.assigned.shape))
    return made


def look():
    return Look(PRESETS["moco_cifar"], MEAN, STD, local=[PRESETS["moco_cifar"][0].but(size=16)])


def views(local=0, seed=0):
    raw = torch.randint(0, 256, (B, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    batch = Batch(raw, torch.full((B, 2), 32), torch.arange(B))
    return look().render(look().views(batch, 2, torch.Generator().manual_seed(seed), local))


def taken(hard, net, out):
    """The step that gave ``out``, after the hook in which ``hard`` offers its views."""
    now = after(net, out, look())
    hard.views(now)
    return now


def ready(net, **options):
    """An attack that is installed."""
    hard = Adversarial(**options)
    hard.install(net)
    return hard


def buffers(net, aux):
    return {k: v.clone() for k, v in net.named_buffers() if (".aux." in k) is aux}
