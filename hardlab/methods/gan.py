"""The GAN that PPCL starts from: the learner is the discriminator, the generator plays against it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from hardlab import biggan, losses
from hardlab.backbones import check_gan
from hardlab.data import Images
from hardlab.methods.base import Method, Player, Step, ema
from hardlab.needs import Setting
from hardlab.numbers import Few, Momentum, Natural, Pixels, Rate, Units
from hardlab.types import HardlabError, Progress
from hardlab.views import Look


class GAN(Method):
    """BigGAN with the hinge loss, without labels; the loss of an image is D's loss on it and on the mean fake.

    The backbone is the discriminator's trunk. Hinge loss: BigGAN (arXiv 1809.11096), App. C; settings: BigGAN-PyTorch's
    and DiffAugment's (arXiv 2006.10738) for CIFAR.

    size, width, latent: of the generator.
    d_steps: steps of the discriminator per step of the generator.
    generator_lr: of the generator's Adam(0, 0.999).
    keep: EMA coefficient of the averaged generator.
    keep_from: the step of the generator from which the average starts; it is a copy until then.
    diffaugment: whether to apply it to all images that D sees.
    """

    pairs = ((0, 0),)
    slots = 1
    shared = True
    mixes_rows = True
    SMALL: Mapping[str, Any] = {"width": 4, "diffaugment": False}
    NETWORK = "biggan"

    def __init__(
        self,
        backbone: nn.Module,
        size: Pixels = 32,
        width: Units = 64,
        latent: Units = 128,
        d_steps: Few = 4,
        generator_lr: Rate = 2e-4,
        keep: Momentum = 0.9999,
        keep_from: Natural = 1000,
        diffaugment: bool = True,
    ) -> None:
        super().__init__(backbone)
        if d_steps < 1:
            raise HardlabError(f"gan with d_steps={d_steps}: the discriminator takes at least 1 step for each of G's.")
        if not 0 <= keep < 1:
            raise HardlabError(f"gan with keep={keep}: the share of the average that is kept is at least 0, below 1.")
        biggan.spectral(self.backbone)
        self.head = biggan.spectral(nn.Linear(self.features, 1))
        self.generator = biggan.Generator(size, width, latent)
        self.averaged = deepcopy(self.generator).requires_grad_(False).eval()
        self.d_steps, self.generator_lr = d_steps, generator_lr
        self.keep, self.keep_from = keep, keep_from
        self.augment = biggan.diffaugment if diffaugment else nn.Identity()

    @staticmethod
    def check_run(at: Setting, size: int) -> None:
        check_gan(size)
        check_pixels(at.mean, at.std)

    def train(self, mode: bool = True) -> GAN:
        super().train(mode)
        self.averaged.eval()  # its running statistics are averages too, so it uses them
        return self

    def both(self, x: Any, index: Tensor | None) -> tuple[Tensor, Tensor]:
        """Real images (N,3,S,S) in [-1,1] -> trunk features (N,D) of them and of as many generated ones."""
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                fake = self.generator(self.generator.sample(len(x)))
            real_f, fake_f = self.pooled(self.augment(torch.cat([x.float(), fake]))).chunk(2)
        return real_f, fake_f

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        return losses.hinge_real(self.head(q)[:, 0]) + losses.hinge_fake(self.head(t)[:, 0]).mean()

    def due(self, step: int) -> int:
        """1 at every ``d_steps``-th step, when the generator moves, else 0."""
        return int((step + 1) % self.d_steps == 0)

    def players(self) -> list[Player]:
        params: list[Tensor] = list(self.generator.parameters())
        opt = torch.optim.Adam(params, self.generator_lr, betas=(0.0, 0.999))

        def objective(step: Step) -> Tensor:
            fake = self.augment(self.generator(self.generator.sample(len(step.out.views.index))))
            return -self.head(self.pooled(fake)).mean()

        return [Player("generator", params, opt, objective, self.due)]

    def after_step(self, step: Step) -> None:
        biggan.iterate(self.backbone)
        biggan.iterate(self.head)
        if self.due(step.at.step):
            biggan.iterate(self.generator)
            late = (step.at.step + 1) // self.d_steps >= self.keep_from
            ema(self.averaged, self.generator, self.keep if late else 0.0, buffers=True)
            biggan.iterate(self.averaged)  # averages of unit vectors are not unit vectors

    def check_look(self, look: Look) -> None:
        check_pixels(look.mean, look.std)

    def on_epoch(self, at: Progress, images: Images, look: Look) -> None:
        self.check_look(look)

    @torch.no_grad()
    def logs(self, step: Step) -> Mapping[str, float]:
        """Mean scores of D on real and on generated images, the spread of its scores, and that of G's images."""
        real, fake = self.head(step.out.q[0]), self.head(step.out.t[0])
        return {
            "d_real": float(real.mean()),
            "d_fake": float(fake.mean()),
            "d_spread": float(torch.cat([real, fake]).std()),
            "g_spread": biggan.spread(self.generator),
        }

    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        return biggan.report({"g": self.generator, "g_ema": self.averaged}, self.generator, images, look)


def check_pixels(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Refuse real images in another range than the generated ones. Raises HardlabError."""
    if mean != (0.5,) * 3 or std != (0.5,) * 3:
        raise HardlabError(
            f"gan with pixel_mean={mean} and pixel_std={std}: both are 0.5, so that real "
            "images span -1 to 1 as the generated ones do."
        )
