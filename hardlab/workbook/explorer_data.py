"""The values that the explorer shows of runs: one function per panel, which returns plain values."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import stats

from hardlab import build, config, run_folder, train
from hardlab.analysis import gan, hardness, negatives, viewlog
from hardlab.analysis.pictures import epoch_of
from hardlab.data import Images, path_of
from hardlab.errors import HardlabError
from hardlab.hard.adversarial import Adversarial, in_unit_range

Panel = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """Limits on the content of a page.

    images: of the ledger.
    occurrences: logged steps of an image.
    tile, small: pixels of a side of a picture in the ledger, and elsewhere.
    points: of a snapshot.
    snapshots: checkpoints shown.
    """

    images: int = 96
    occurrences: int = 8
    tile: int = 96
    small: int = 40
    points: int = 160
    snapshots: int = 6


SIZES = (Size(), Size(64, 6, 64, 32, 110, 5), Size(40, 5, 48, 24, 80, 4))
LATENTS = 12
ATTACKED = 6
FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # multiples of the run's own attack
_ALONE = (
    "The same images under several methods need two runs or more on the same images, with their checkpoints: "
    "`hardlab explore RUN RUN ...` compares them."
)
SHARED, DRAWS = 36, 8  # images whose loss is compared between methods, and draws of their views


class Opened:
    """A run's folder with its configuration and, if they are on this machine, its images."""

    def __init__(self, path: str | Path, root: str | Path | None = None) -> None:
        self.path, self.root = Path(path), root
        self.run, self.about = config.read_run(self.path)
        self.images: Images | None = None
        self.without = ""  # why there are no images
        try:
            images = build.images(self.run, root=root)
            run_folder.check_images(self.path.name, self.about["data"], images)
            self.images = images
        except HardlabError as e:
            self.without = f"The images of {self.path.name} cannot be shown: {e}"

    def by_name(self, error: HardlabError) -> str:
        """The text of an error, with the run's name instead of its path, which means nothing on another machine."""
        return str(error).replace(f"'{self.path}'", self.path.name)

    def command(self, recipe: str) -> str:
        """The command that trains another recipe on the same images."""
        data = self.run.data.name
        path = path_of(data)
        on = "" if path is None else f" --data {path}" if data.startswith("folder:") else f" data={data}"
        return f"`hardlab pretrain {recipe} --rung {self.run.rung}{on}`"

    def name_of(self, row: int) -> str:
        return str(self.images.names[row]) if self.images is not None and row >= 0 else f"row {row}"

    def label_of(self, row: int) -> str:
        if self.images is None or row < 0 or (label := int(self.images.targets[row])) < 0:
            return ""
        return str(self.images.classes[label])


def ledger(opened: Opened, size: Size) -> Panel:
    """Candidates of images that were logged often: the hardest images, and as many evenly over the rest.

    images: row, name, label, percentile (of the mean loss of its candidates among those of the same step), seen, at.
    at: an entry per logged step: epoch, step, source height and width, views (slot, top, left, height, width), and
        pairs (a, b, loss, percentile, iou, colour distance, chosen), hardest first.
    why: mean rank correlation of the loss with overlap and colour distance within an image.

    Raises HardlabError for a run without a view log.
    """
    if not viewlog.segments(opened.path):
        raise HardlabError(
            f"{opened.path.name} logged no candidates: `hardlab pretrain {opened.run.recipe} --rung {opened.run.rung} "
            "logs.views_every=2` logs those of every second step."
        )
    log = hardness.scored(opened.path)
    logged = log.groupby("index")["step"].nunique()
    often = logged.index[logged >= min(3, logged.median())]  # the mean over one or two steps is too noisy
    mean = log.groupby("index")["percentile"].mean()[often].sort_values(ascending=False, kind="stable")
    half = size.images // 2
    rest = [half + i for i in gan.evenly(max(0, len(mean) - half), size.images - half)] if len(mean) > half else []
    rows = [int(mean.index[i]) for i in [*range(min(half, len(mean))), *rest]]
    by_image = dict(iter(log[log["index"].isin(rows)].groupby("index")))
    entries = []
    for row in rows:
        steps = [part for _, part in by_image[row].groupby("step", sort=True)]
        kept = [steps[i] for i in gan.evenly(len(steps), size.occurrences)]
        entries.append(
            {"row": row, "name": opened.name_of(row), "label": opened.label_of(row)}
            | {"percentile": _short(mean[row]), "seen": len(steps), "at": [_occurrence(part) for part in kept]}
        )
    return {
        "images": entries,
        "atlas": atlas(opened, rows, size.tile),
        "pairs": len(log) // max(1, log.groupby(["step", "index"]).ngroups),
        "logged": len(logged),
        "why": why(log),
    }


def why(log: pd.DataFrame) -> dict[str, float]:
    """Mean rank correlation of a pair's loss with ``iou`` and ``colour_distance`` among the candidates of an image.

    With one pair per image, the correlation is over all pairs. Constant quantities are left out.
    """
    keys = [log["step"], log["index"]]
    several = log.groupby(keys)["loss"].transform("size").max() > 2
    out = {}
    for name in ("iou", "colour_distance"):
        if several:
            ranks = [c.groupby(keys).rank() for c in (log["loss"], log[name])]
            a, b = (r - r.groupby(keys).transform("mean") for r in ranks)
            top = (a * b).groupby(keys).sum()
            below = np.sqrt((a * a).groupby(keys).sum() * (b * b).groupby(keys).sum())
            rho = (top / below.where(below > 0)).mean()
        else:
            rho = stats.spearmanr(log["loss"], log[name])[0] if log[name].nunique() > 1 else np.nan
        if np.isfinite(rho):
            out[name] = float(rho)
    return out


def _occurrence(part: pd.DataFrame) -> dict[str, Any]:
    first = part.iloc[0]
    views: dict[int, list[float]] = {}
    for side in "ab":
        boxes = part[[f"{side}_{k}" for k in ("top", "left", "height", "width")]].to_numpy(float)
        views |= {int(slot): [_short(x) for x in box] for slot, box in zip(part[side], boxes, strict=True)}
    columns = ("a", "b", "loss", "percentile", "iou", "colour_distance", "chosen")
    ranked = part.sort_values("loss", ascending=False, kind="stable")[list(columns)]
    pairs = [[int(a), int(b), *map(_short, numbers), int(chosen)] for a, b, *numbers, chosen in ranked.to_numpy(object)]
    sizes = {"h": int(first["a_image_h"]), "w": int(first["a_image_w"])}
    return {"epoch": int(first["epoch"]), "step": int(first["step"]), **sizes} | {
        "views": [[slot, *box] for slot, box in sorted(views.items())],
        "pairs": pairs,
    }


def snapshots(opened: Opened, size: Size) -> Panel:
    """Negatives and queries laid out by t-SNE, at up to ``size.snapshots`` checkpoints.

    at: step, epoch and points (x, y in 0..1, whether it is a negative, cosine with the nearest query, index of that
    query's picture or -1). Raises HardlabError for a run without such snapshots.
    """
    try:
        banks = negatives.banks(opened.path)
    except HardlabError as e:
        raise HardlabError(f"{opened.by_name(e)} {opened.command('adco')} makes such a run.") from e
    banks = [banks[i] for i in gan.evenly(len(banks), size.snapshots)]
    few, faces = [], []
    for bank in banks:
        n, q = (np.array(gan.evenly(len(x), size.points)) for x in (bank.negatives, bank.queries))
        cosines = bank.negatives[n] @ bank.queries.T
        faces.append(
            (np.append(bank.rows[cosines.argmax(1)], bank.rows[q]), np.append(cosines.max(1), np.ones(len(q))))
        )
        ages = None if bank.ages is None else bank.ages[n]
        few.append(bank._replace(negatives=bank.negatives[n], queries=bank.queries[q], rows=bank.rows[q], ages=ages))
    flat = negatives.layouts(few)
    least, span = np.min([x.min(0) for x in flat], 0), max(float(np.max([np.ptp(x, axis=0) for x in flat])), 1e-9)
    rows = sorted({int(row) for some, _ in faces for row in some if row >= 0})
    place = {row: i for i, row in enumerate(rows)}
    at = []
    for bank, places, (some, cosine) in zip(few, flat, faces, strict=True):
        points = [
            [_short(x), _short(y), int(i < len(bank.negatives)), _short(c), place.get(int(row), -1)]
            for i, ((x, y), row, c) in enumerate(zip((places - least) / span, some, cosine, strict=True))
        ]
        at.append({"step": bank.step, "epoch": _short(epoch_of(opened.about, bank.step)), "points": points})
    names = [[opened.name_of(row), opened.label_of(row)] for row in rows]
    return {"at": at, "rows": rows, "names": names, "atlas": atlas(opened, rows, size.small)}


def generated(opened: Opened, size: Size) -> Panel:
    """Pairs by a generator and its average, at up to ``size.snapshots`` + 2 checkpoints, and the loss on them.

    at: step, epoch, strip (pictures of G over those of its average), scores. loss: step, real, generated.
    """
    try:
        shots = gan.shots(opened.path)
    except HardlabError as e:
        raise HardlabError(f"{opened.by_name(e)} {opened.command('ppcl')} makes such a run.") from e
    at = []
    for shot in (shots[i] for i in gan.evenly(len(shots), size.snapshots + 2)):
        strip = np.concatenate([np.concatenate(list(x[:LATENTS]), axis=2) for x in (shot.g, shot.g_ema)], axis=1)
        about = {"step": shot.step, "epoch": _short(epoch_of(opened.about, shot.step))}
        at.append(
            about | {"strip": jpeg(strip.transpose(1, 2, 0)), "scores": {k: _short(v) for k, v in shot.scores.items()}}
        )
    try:
        curve = gan.hardness(opened.path)[["step", "real", "generated"]].to_numpy(float)
    except HardlabError:  # a run of the method gan has no learner
        curve = np.zeros((0, 3))
    side = shots[0].g.shape[-1]
    return {
        "at": at,
        "side": side,
        "count": min(LATENTS, len(shots[0].g)),
        "loss": [list(map(_short, r)) for r in curve],
    }


def attack(opened: Opened, size: Size) -> Panel:
    """A trained run's attack at growing sizes: pictures of a few views, the added noise, and the loss of each.

    sizes: largest change in grey levels.
    loss: (images, sizes).
    mean: over the batch.
    tiles: pictures, a line per image, a column per size, then as many columns of the amplified change.

    Raises HardlabError for a run without an attack, or without its checkpoint or images.
    """
    if not any(h.name == "adversarial" for h in opened.run.hard):
        raise HardlabError(f"{opened.path.name} attacks nothing: {opened.command('hexa-moco')} trains with attacks.")
    session = train.reopen(opened.path, root=opened.root)
    player = next(h for h in session.hard if isinstance(h, Adversarial))
    batch, own = next(session.batches()), (player.epsilon, player.eta)
    sizes, losses, means, pictures = [], [], [], []
    for factor in FACTORS:
        session.generator.manual_seed(0)
        torch.manual_seed(0)
        player.epsilon, player.eta = own[0] * factor, own[1] * factor
        step = train.begin(session, batch)
        loss = step.terms["adversarial"].detach().float().reshape(-1)
        pictures.append(in_unit_range(step.made["adversarial"]().x[:ATTACKED, 0].detach().float(), session.look))
        sizes.append(float(step.numbers["adversarial.max_delta"]) if factor else 0.0)
        losses.append(loss[:ATTACKED].tolist())
        means.append(float(loss.mean()))
    x = torch.stack(pictures, 1).cpu()  # (images, sizes, 3, S, S)
    change = x - x[:, :1]
    amplify = 0.5 / max(float(change.abs().max()), 1e-9)
    both = torch.cat([x, 0.5 + amplify * change], 1)
    if both.shape[-1] > 64:
        both = torch.nn.functional.interpolate(both.flatten(0, 1), (64, 64), mode="area").view(*both.shape[:3], 64, 64)
    tiles = (both.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 3, 1, 4, 2).numpy()
    n, s, m = tiles.shape[:3]
    return {
        "sizes": list(map(_short, sizes)),
        "own": FACTORS.index(1.0),
        "loss": [[_short(v) for v in line] for line in np.transpose(losses)],
        "mean": list(map(_short, means)),
        "amplify": _short(amplify),
        "side": s,
        "tiles": png(tiles.reshape(n * s, m * s, 3)),
    }


def methods(several: Sequence[Opened], size: Size) -> Panel:
    """The percentile of the loss of the same images under several runs, the mean of ``DRAWS`` draws of their views.

    runs: names. images: row, name, label, percentiles in the order of ``runs``; hardest first. Raises HardlabError for
    fewer than two runs that can be compared.
    """
    able = [o for o in several if o.images is not None and o.run.method.name != "gan"]
    alike = [o for o in able if o.about["data"].get("digest") == able[0].about["data"].get("digest")]
    if len(alike) < 2:
        raise HardlabError(_ALONE)
    count = len(alike[0].images or ())
    rows = np.unique(np.linspace(0, count - 1, min(SHARED, count)).round().astype(int))
    percentiles = {}
    for o in alike:
        try:
            percentiles[o.path.name] = hardness.percentiles(hardness.losses(o.path, rows, DRAWS, root=o.root)).mean(0)
        except HardlabError:  # e.g. its checkpoints were removed, or another version wrote them
            continue
    judged = [o for o in alike if o.path.name in percentiles]
    if len(judged) < 2:
        raise HardlabError(_ALONE)
    table = np.stack(list(percentiles.values()), 1)
    order = np.argsort(-table.mean(1), kind="stable")
    images = [
        {"row": int(rows[i]), "name": alike[0].name_of(int(rows[i])), "label": alike[0].label_of(int(rows[i]))}
        | {"percentiles": [_short(v) for v in table[i]]}
        for i in order
    ]
    short = [f"{o.run.recipe}, seed {o.run.seed}" for o in judged]
    return {
        "runs": list(percentiles),
        "titles": short,
        "images": images,
        "atlas": atlas(alike[0], rows[order].tolist(), size.small),
    }


def atlas(opened: Opened, rows: Sequence[int], side: int) -> Panel | None:
    """One JPEG of rows of a data set, each at the top left of a square of ``side`` pixels; None without images."""
    if opened.images is None or not len(rows):
        return None
    columns = int(np.ceil(np.sqrt(len(rows))))
    sheet = np.full((-(-len(rows) // columns) * side, columns * side, 3), 255, np.uint8)
    sizes = []
    at = 0
    for batch in opened.images.batches(torch.as_tensor(list(rows)).split(64)):
        for raw, (h, w) in zip(batch.raw.cpu(), batch.sizes.tolist(), strict=True):
            picture = Image.fromarray(raw[:, :h, :w].permute(1, 2, 0).numpy())
            scale = side / max(picture.size)
            picture = picture.resize([max(1, round(v * scale)) for v in picture.size], Image.Resampling.BILINEAR)
            y, x = (v * side for v in divmod(at, columns))
            sheet[y : y + picture.height, x : x + picture.width] = np.asarray(picture)
            sizes.append(list(picture.size))
            at += 1
    return {"src": jpeg(sheet), "side": side, "columns": columns, "sizes": sizes}


def jpeg(pixels: np.ndarray) -> str:
    """Pixels (H,W,3) uint8 as a data URL, compressed with loss."""
    return _url(pixels, "JPEG", quality=82)


def png(pixels: np.ndarray) -> str:
    """Pixels (H,W,3) uint8 as a data URL, compressed without loss."""
    return _url(pixels, "PNG", optimize=True)


def _url(pixels: np.ndarray, kind: str, **options: Any) -> str:
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(sink.getvalue()).decode()}"


def _short(value: Any) -> Any:
    """Round to four significant digits; None for a number that is not finite, because JSON has no NaN."""
    return float(f"{float(value):.4g}") if np.isfinite(float(value)) else None
