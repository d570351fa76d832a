"""A small GAN."""

from __future__ import annotations

import torch
from small_runs import small_run

from hardlab import biggan
from hardlab.methods.gan import GAN
from hardlab.views import PRESETS, Look

SMALL = small_run("gan")
LOOK = Look(PRESETS["eval"], (0.5,) * 3, (0.5,) * 3)


def game(**options):
    torch.manual_seed(0)
    return GAN(biggan.Trunk(width=2), **({"width": 2, "latent": 8, "d_steps": 2} | options))
