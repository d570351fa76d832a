"""PPCL (arXiv 2202.06464): adds generated images, made hard by ascending the contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import biggan, losses, ranks
from hardlab.backbones import check_gan
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Player, Step, ema
from hardlab.needs import Setting
from hardlab.nets import running_stats_frozen
from hardlab.numbers import Count, Few, ManyOrNone, Momentum, Pixels, Rate, RateOrZero, Units, Weight
from hardlab.types import Batch, Drawn, HardlabError, Rendered
from hardlab.views import Look


def other_sizes(parent: str) -> HardlabError:
    """The refusal of a parent whose networks are not of the sizes of this run's."""
    return HardlabError(
        f"{parent} holds no GAN of these sizes: hard.generated.size, width and latent must be those of "
        "its backbone and method."
    )


class Generated(Hard):
    """Adds generated images to the batch; the generator G plays against the learner. PPCL, Eqs. 4-8, Alg. 1.

    The networks come from the run's parent, trained by the method ``gan``; without a parent they are random.

    positives: ``pair`` makes the images of one z by G and its average positives of each other (Eqs. 5, 7); ``view``
        takes one image of G per z, whose only positive is its other view (Sec. 3.1).
    learn: ``joint`` ascends the learner's loss and trains against the discriminator (Eq. 4, Alg. 1), ``gan`` only
        trains against the discriminator, ``frozen`` does neither.
    combine: take the two objectives of G in separate ``steps``, or their ``sum``.
    weight: of the ascent in that sum.
    count: number of generated images; None = as many as real ones.
    every: n, the number of steps between two moves of G.
    keep: m of Eq. 6, the EMA coefficient of G's average.
    ascent_lr: eta_w, the rate of the ascent.
    d_steps, generator_lr, discriminator_lr, diffaugment, size, width, latent: of the GAN, as in the method ``gan``.
    """

    adds = regroups = True
    needs: Mapping[str, str] = {
        "no rows": "adds images that are no row of the data set",
        "views to compare": "adds views of one image",
    }
    when: Mapping[tuple[str, Any], Mapping[str, Any]] = {
        ("positives", "pair"): {"needs": {"groups": "makes pairs of generated images positives of each other"}}
    }
    SMALL: Mapping[str, Any] = {"width": 4}

    def __init__(
        self,
        positives: Literal["pair", "view"] = "pair",
        learn: Literal["joint", "gan", "frozen"] = "joint",
        combine: Literal["steps", "sum"] = "steps",
        weight: Weight = 1.0,
        count: ManyOrNone | None = None,
        every: Count = 1,
        keep: Momentum = 0.999,
        ascent_lr: RateOrZero = 2e-5,
        d_steps: Few = 4,
        generator_lr: Rate = 2e-4,
        discriminator_lr: Rate = 2e-4,
        diffaugment: bool = True,
        size: Pixels = 32,
        width: Units = 64,
        latent: Units = 128,
    ) -> None:
        super().__init__()
        self.check_options(count, positives)
        if every < 1 or d_steps < 1:
            raise HardlabError(f"generated with every={every}, d_steps={d_steps}: both count steps and are at least 1.")
        if not 0 <= keep < 1:
            raise HardlabError(f"generated with keep={keep}: the share that is kept is at least 0 and below 1.")
        self.positives, self.learn, self.combine, self.weight = positives, learn, combine, weight
        self.count, self.every, self.keep, self.ascent_lr, self.d_steps = count, every, keep, ascent_lr, d_steps
        self.generator_lr, self.discriminator_lr = generator_lr, discriminator_lr
        self.augment: Callable[[Tensor], Tensor] = biggan.diffaugment if diffaugment else nn.Identity()
        self.generator = biggan.Generator(size, width, latent)
        self.averaged = deepcopy(self.generator).requires_grad_(False).eval()
        trunk = biggan.Trunk(size, width)
        self.discriminator = biggan.spectral(nn.Sequential(trunk, nn.Linear(trunk.dim, 1)))

    @staticmethod
    def check_options(count: int | None, positives: str) -> None:
        if count is not None and (count < 0 or (positives == "pair" and count % 2)):
            raise HardlabError(f"generated with count={count}: 0 or more images, and an even number for pairs.")

    @staticmethod
    def check_run(at: Setting, size: int, width: int, latent: int) -> None:
        check_gan(size)
        if at.parent is not None:
            method, trunk = at.parent.method, at.parent.backbone
            made = [(trunk.name, trunk.options.get("size"), trunk.options.get("width")),
                    (method.name, method.options.get("size"), method.options.get("width"))]  # fmt: skip
            wanted = [("biggan", size, width), ("gan", size, width)]
            if made != wanted or method.options["latent"] != latent:
                raise other_sizes(at.parent.id)

    def on_start(self, images: Images, batch_size: int) -> None:
        count, parts = batch_size if self.count is None else self.count, ranks.size()
        pair = 2 if self.positives == "pair" else 1
        if count % (pair * parts) and parts > 1:
            raise HardlabError(
                f"{count} generated images do not split over {parts} processes: take hard.generated.count="
                f"{max(1, round(count / pair / parts)) * pair * parts}."
            )

    def start_from(self, parent: str, networks: Mapping[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Any]:
            return {k.removeprefix(prefix): v for k, v in networks.items() if k.startswith(prefix)}

        try:
            self.generator.load_state_dict(part("generator."))
            self.averaged.load_state_dict(part("averaged."))
            self.discriminator[0].load_state_dict(part("backbone."))  # type: ignore[index]
            self.discriminator[1].load_state_dict(part("head."))  # type: ignore[index]
        except RuntimeError:
            raise other_sizes(parent) from None

    # ---------------------------------------------------------------------------------------------- the mixed batch

    def views(self, step: Step) -> None:
        """B real images -> B + count, the generated ones last, with index -1; G and its average without gradient."""
        v = step.views
        if isinstance(v, Rendered):
            raise HardlabError(
                "These views are rendered already: name 'generated' before strategies that choose views."
            )
        if self.count == 0:
            return
        with torch.no_grad(), torch.autocast(v.raw.device.type, enabled=False), running_stats_frozen(self.generator):
            made = self._images(len(v.raw))
        step.kept[self.name] = v, made
        step.views = self._mixed(v, made, step.look)

    def _images(self, real: int) -> Tensor:
        """Images (count,3,S,S) in [-1,1]: G(z) for each z, or G(z_1), G_ema(z_1), G(z_2), ...; gradient through G."""
        n = real if self.count is None else self.count // ranks.size()
        if self.positives == "view":
            return self.generator(self.generator.sample(n))
        z = self.generator.sample(n // 2)
        with torch.no_grad():
            twins = self.averaged(z)
        # the two images of a latent follow each other in the batch, so they may belong to two ranks
        return ranks.own(torch.stack([ranks.whole(self.generator(z)), ranks.whole(twins)], 1).flatten(0, 1))

    def _mixed(self, v: Drawn, made: Tensor, look: Look) -> Drawn:
        """The batch followed by generated images, with views drawn like the real ones, grouped by their latents."""
        n, size, device = len(made), made.shape[-1], v.raw.device
        images = Batch((made + 1) / 2, torch.full((n, 2), size, device=device), torch.full((n,), -1, device=device))
        fresh = look.views(images, v.params.shape[1], local=v.crops)
        latents = torch.arange(ranks.size() * n, device=device) // (2 if self.positives == "pair" else 1)
        return v.append(replace(fresh, group=ranks.own(latents), grouped=self.positives == "pair"))

    # --------------------------------------------------------------------------------------------------- the players

    def players(self, method: Method) -> list[Player]:
        if self.learn == "frozen" or self.count == 0:
            return []
        weights_of_g: list[Tensor] = list(self.generator.parameters())
        of_discriminator: list[Tensor] = list(self.discriminator.parameters())

        def adam(params: list[Tensor], lr: float) -> torch.optim.Adam:
            return torch.optim.Adam(params, lr, betas=(0.0, 0.999))

        def ascend(step: Step) -> Tensor:
            return -self.contrastive(step)

        def together(step: Step) -> Tensor:
            return self._fool(step) - self.weight * self.contrastive(step)

        summed = self.learn == "joint" and self.combine == "sum"
        first = [Player("generator-ascent", weights_of_g, adam(weights_of_g, self.ascent_lr), ascend, self.due)]
        return [
            *(first if self.learn == "joint" and not summed else []),
            Player(
                "discriminator",
                of_discriminator,
                adam(of_discriminator, self.discriminator_lr),
                self._tell_apart,
                lambda step: self.d_steps * self.due(step),
            ),
            Player(
                "generator",
                weights_of_g,
                adam(weights_of_g, self.generator_lr),
                together if summed else self._fool,
                self.due,
            ),
        ]

    def due(self, step: int) -> int:
        """1 at every n-th step, when the networks of this strategy move, else 0."""
        return int((step + 1) % self.every == 0)

    def contrastive(self, step: Step) -> Tensor:
        """The learner's loss on this step's real images and new generated ones, with a gradient to G (Eq. 7, 8).

        The learner is in train mode (batch statistics), but neither its weights nor its running statistics move.
        """
        (v, _), method, look = step.kept[self.name], step.method, step.look
        fresh = look.views(Batch(v.raw, v.sizes, v.index), v.params.shape[1], local=v.crops)
        mixed = look.render(self._mixed(fresh, self._images(len(v.raw)), look), plain=method.plain)
        with running_stats_frozen(method), step.autocast():
            return method(mixed).loss.mean()

    def _tell_apart(self, step: Step) -> Tensor:
        real = self._real(step)
        with torch.no_grad():
            fake = self.generator(self.generator.sample(len(real)))
        score_real, score_fake = self.discriminator(self.augment(torch.cat([real, fake])))[:, 0].chunk(2)
        return losses.hinge_real(score_real).mean() + losses.hinge_fake(score_fake).mean()

    def _fool(self, step: Step) -> Tensor:
        fake = self.generator(self.generator.sample(len(step.kept[self.name][0].raw)))
        return -self.discriminator(self.augment(fake)).mean()

    def _real(self, step: Step, mirror: bool = True) -> Tensor:
        """This step's real images (B,3,S,S) in [-1,1], as a GAN sees them: half of them mirrored."""
        v, _ = step.kept[self.name]
        x = biggan.real_images(v.raw, v.sizes, step.look, self.generator.size)
        if not mirror:
            return x
        turned = ranks.draw(lambda n: torch.rand(n, 1, 1, 1, device=x.device), len(x)) < 0.5
        return torch.where(turned, x.flip(3), x)

    def after_step(self, step: Step) -> None:
        if self.learn != "frozen" and self.count != 0 and self.due(step.at.step):
            biggan.iterate(self.discriminator, self.d_steps)
            biggan.iterate(self.generator, 2)
            ema(self.averaged, self.generator, self.keep, buffers=True)
            biggan.iterate(self.averaged)  # averages of unit vectors are not unit vectors

    # ------------------------------------------------------------------------------------------ logs and snapshots

    @torch.no_grad()
    def logs(self, step: Step) -> Mapping[str, float]:
        """Loss of real and of generated images, similarity of pairs, and the state of the GAN.

        d_*: D's scores, their spread and its loss on plain images. g_spread: of the generated images. weights_apart:
        distance of G from its average.
        """
        if self.count == 0:
            return {}
        (_, made), loss, q = step.kept[self.name], step.out.loss, step.out.q[0]
        real = len(loss) - len(made)
        squares = [(a - b).square().sum() for a, b in zip(self.generator.parameters(), self.averaged.parameters())]
        d_real, d_made = self.discriminator(self._real(step, mirror=False)), self.discriminator(made)
        numbers = {
            "loss_real": loss[:real].mean(),
            "loss_generated": loss[real:].mean(),
            "d_real": d_real.mean(),
            "d_generated": d_made.mean(),
            "weights_apart": torch.stack(squares).sum().sqrt(),
        }
        if len(made) > 2:  # a single latent has no spread
            numbers["g_spread"] = made.std(0).mean()
        if self.learn != "frozen":
            numbers["d_spread"] = torch.cat([d_real, d_made]).std()
            numbers["d_loss"] = losses.hinge_real(d_real).mean() + losses.hinge_fake(d_made).mean()
        if self.positives == "pair":
            unit = F.normalize(q[real:].float(), dim=1)
            numbers["pair_cosine"] = (unit[0::2] * unit[1::2]).sum(1).mean()
        return {k: float(x) for k, x in numbers.items()}

    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        return biggan.report({"g": self.generator, "g_ema": self.averaged}, self.generator, images, look)
