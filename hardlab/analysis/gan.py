"""A generator and its average during training: images of the same latents at every snapshot, and their hardness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hardlab import run_folder
from hardlab.errors import HardlabError
from hardlab.files import SNAPSHOT, as_expected, read_arrays


class Shot(NamedTuple):
    """Images of the same latents by both generators, ``g`` and ``g_ema`` (N,3,S,S) uint8; scores: frechet, coverage."""

    step: int
    g: np.ndarray
    g_ema: np.ndarray
    scores: dict[str, float]


def shots(run_dir: Path | str) -> list[Shot]:
    """The snapshots of a GAN or of the strategy ``generated``, oldest first. Raises HardlabError if there are none."""
    snapshots = []
    for file in sorted((Path(run_dir) / "snapshots").glob(f"*{SNAPSHOT}"), key=lambda f: int(f.stem[-8:])):
        arrays = read_arrays(file)
        if "g_ema" in arrays:
            with as_expected(file):
                g, ema = arrays["g"], arrays["g_ema"]
                if g.ndim != 4 or g.dtype != np.uint8 or (g.shape, g.dtype) != (ema.shape, ema.dtype):
                    raise ValueError(f"images {g.shape} {g.dtype} of G, {ema.shape} {ema.dtype} of its average")
                scores = {k: float(a) for k, a in arrays.items() if a.ndim == 0}
                snapshots.append(Shot(int(file.stem[-8:]), g, ema, scores))
    if not snapshots:
        raise HardlabError(
            f"'{run_dir}' kept no generated images; runs of gan, and of the strategy generated, keep them."
        )
    return snapshots


def grid(series: Sequence[Shot], latents: Sequence[int] = (0, 1, 2), columns: int = 8) -> np.ndarray:
    """PPCL's Figure 6: for each latent a row of G and one of its average, a column per snapshot, evenly spaced.

    Returns (2 * latents * S, columns * S, 3) uint8.
    """
    chosen = [series[i] for i in evenly(len(series), columns)]
    rows = [np.concatenate([images[z] for images in generated], axis=2) for z in latents
            for generated in ([s.g for s in chosen], [s.g_ema for s in chosen])]  # fmt: skip
    return np.concatenate(rows, axis=1).transpose(1, 2, 0)


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spaced, including the first and the last."""
    return sorted({round(float(x)) for x in np.linspace(0, count - 1, min(count, most))})


def twins(series: Sequence[Shot]) -> pd.DataFrame:
    """The pixel similarity of the two images of a latent: a row per snapshot.

    correlation: of the pixels of G(z) and of its average's image, mean over latents, with lo, hi (95 % of 1000
    bootstrap samples of latents). others: the same between different latents, which is high too if the generator has
    collapsed. Images of a single grey level have no correlation and do not count; NaN if none is left. difference:
    root mean square, in grey levels. The snapshot's own scores follow.
    """
    out = []
    for shot in series:
        a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (shot.g, shot.g_ema))
        difference = np.sqrt(((a - b) ** 2).mean())
        drawn = (a != a[:, :1]).any(1) & (b != b[:, :1]).any(1)  # more than one grey level
        a, b = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (a[drawn], b[drawn]))
        cosines = a @ b.T / a.shape[1]  # (N,N)
        own_pairs, n = np.diag(cosines), len(a)
        mean = lo = hi = np.nan
        if n:
            draws = own_pairs[np.random.default_rng(0).integers(n, size=(1000, n))].mean(1)
            mean, (lo, hi) = own_pairs.mean(), np.quantile(draws, [0.025, 0.975])
        others = (cosines.sum() - own_pairs.sum()) / (n * (n - 1)) if n > 1 else np.nan
        out.append({"step": shot.step, "correlation": mean, "lo": lo, "hi": hi, "others": others,
                    "difference": difference, **shot.scores})  # fmt: skip
    return pd.DataFrame(out)


def hardness(run_dir: Path | str) -> pd.DataFrame:
    """The learner's loss on generated images: a row per logged step.

    real, generated: its mean loss on each part of the batch; gap: the second minus the first; then all other numbers
    that the strategy logged, e.g. pair_cosine, of a pair's predictions. Raises HardlabError for runs without the
    strategy.
    """
    rows = run_folder.metrics(Path(run_dir), "step")
    logged = [r for r in rows if "generated.loss_generated" in r]
    if not logged:
        raise HardlabError(f"'{run_dir}' logged no loss of generated images; runs with the strategy generated log it.")
    frame = pd.DataFrame(
        [{"step": r["step"], "epoch": r["epoch"]}
         | {k.removeprefix("generated."): v for k, v in r.items() if k.startswith("generated.")} for r in logged]
    )  # fmt: skip
    frame = frame.rename(columns={"loss_real": "real", "loss_generated": "generated"})
    return frame.assign(gap=frame["generated"] - frame["real"])
