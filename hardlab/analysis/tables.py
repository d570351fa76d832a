"""From finished runs to the tidy tables that the figures are drawn from."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hardlab import build, config, registry
from hardlab.analysis import iou, negatives, pairs, viewlog
from hardlab.analysis.intervals import Interval, interval
from hardlab.checkpoint import make_folder, write_atomic
from hardlab.recipes import RUNGS
from hardlab.registry import unknown
from hardlab.runs import precision_of
from hardlab.types import HardlabError
from hardlab.views import PARAMS

SAME = ("setting", "arm", "seed")  # runs that share these are one training, whatever it is called
WHO = ("rung", "data", "method", "setting", "arm", "recipe", "seed", "run")  # every table starts with these
COLUMNS: dict[str, tuple[str, ...]] = {
    "hvs_f2": (*WHO, "row", *viewlog.SCHEMA.names, "iou"),
    "hvs_f3_left": (*WHO, "epoch", "images", "share", "chance", "control", "tied"),
    "hvs_f3_right": (*WHO, "series", "lo", "hi", "density", "images", "outside"),
    "hvs_f4_left": (*WHO, "series", "epoch", "images", "iou"),
    "hvs_f4_right": (*WHO, "epoch", "images", "share", "chance", "control", "tied"),
    "hvs_summary": (*WHO, "quantity", "mean", "lo", "hi", "n"),
    "evaluation": (*WHO, "protocol", "features", "evaluated_on", "split", "metric", "options", "value"),
    "curves": (
        *WHO, "protocol", "features", "evaluated_on", "split", "metric", "options",
        "epoch", "classifier_epoch", "value",
    ),
    "epochs": (*WHO, "epoch", "name", "value"),
    "costs": (*WHO, "quantity", "value"),
    "importance": (*WHO, "name", "leaf", "share", "lo", "hi", "n"),
    "predictability": (
        *WHO, "accuracy", "lowest_iou", "chance", "n_train", "n_test", "settings", "uses",
    ),
    "configs": (*WHO, "key", "value"),
    "hexa_f1": (*WHO, "row", "tile", "epoch", "label"),
    "hvs_f11": (*WHO, "row", "tile", "epoch", "label"),
    "ppcl_f6": (*WHO, "row", "tile", "epoch", "label"),
    "adco_f2": (*WHO, "epoch", "kind", "x", "y", "distance"),
    "negatives": (*WHO, "epoch", *negatives.SCORES),
    "hardness": (*WHO, "tile", "index", "label", "percentile", "sd", "draws", "images"),
    "transfer": (*WHO, "other", "other_run", "rho", "lo", "hi", "ceiling", "images"),
}  # fmt: skip
STANDARD, HVS, STATIC, UNTRAINED = "standard", "hvs", "hvs colour=static", "untrained"
PICTURES = 10  # images whose views are kept: HVS Fig. 6 shows ten rows, Fig. 2 the first three of them
CELL = 96  # pixels; views larger than this are kept in this size
KEPT_EPOCHS = 25  # of each run in ``epochs``, of each classifier in ``curves``, evenly from the first to the last


def arm(configuration: Mapping[str, Any]) -> str:
    """What makes a run differ from its baseline: ``standard``, ``untrained``, or its strategies, e.g. ``hvs draws=8``.

    Only options that differ from the strategy's defaults are told.
    """
    if configuration["epochs"] == 0:
        return UNTRAINED
    names = []
    for spec in configuration["hard"]:
        defaults = {k: p.default for k, p in registry.options("strategy", spec["name"]).items()}
        told = {k: v for k, v in sorted(spec["options"].items()) if v != defaults.get(k)}
        names.append(" ".join([spec["name"], *(f"{k}={v}" for k, v in told.items())]))
    return " + ".join(names) or STANDARD


def setting(configuration: Mapping[str, Any]) -> str:
    """Eight hex digits of all that decides the outcome but strategies and seed: what a run shares with its baseline."""
    told = config.without_later_defaults(configuration)
    same = {k: v for k, v in told.items() if k not in ("recipe", "seed", "hard", "logs")}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]


def as_run(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run with the precision that it took, whether or not it was asked for by name."""
    return {**manifest["config"], "precision": precision_of(manifest)}


def runs(runs_dir: Path | str) -> pd.DataFrame:
    """A row per run folder: ``WHO``, state, epochs, epochs_done, count, ``path``, and more of the manifest.

    Raises ``HardlabError`` where the folder does not exist or a manifest cannot be read.
    """
    root = Path(runs_dir)
    if not root.is_dir():
        raise HardlabError(f"There is no folder of runs '{root}'.")
    return pd.DataFrame(
        [_row(p) for p in sorted(root.glob("*/manifest.json"))],
        columns=[
            *WHO,
            "state",
            "epochs",
            "epochs_done",
            "count",
            "precision",
            "device",
            "commit",
            "dirty",
            "started",
            "ended",
            "path",
        ],
    )


def finished(
    runs_dir: Path | str, rung: str, recipes: Sequence[str], need: Sequence[str] | None = None
) -> pd.DataFrame:
    """The rows of ``runs`` that are done, of these recipes at a rung, in the recipes' order, then by seed and start.

    need: the recipes that must be there, all unless told. Raises ``HardlabError`` that names those without any run.
    """
    lacking = missing(runs_dir, rung, recipes if need is None else need)
    if lacking:
        commands = " and ".join(f"`{command}`" for command in lacking.values())
        raise HardlabError(f"There is no finished run of {', '.join(lacking)} in '{runs_dir}': {commands} first.")
    place = {name: i for i, name in enumerate(recipes)}
    table = _done(runs_dir, rung, recipes)
    table = table.assign(place=table["recipe"].map(place)).sort_values(["place", "seed", "started"], ignore_index=True)
    return table.drop(columns="place")


def missing(runs_dir: Path | str, rung: str, recipes: Sequence[str]) -> dict[str, str]:
    """The recipes without a finished run at a rung, each with the command that trains it."""
    there = set(_done(runs_dir, rung, recipes)["recipe"])
    return {name: f"hardlab pretrain {name} --rung {rung}" for name in recipes if name not in there}


def _done(runs_dir: Path | str, rung: str, recipes: Sequence[str]) -> pd.DataFrame:
    table = runs(runs_dir)
    return table[(table["rung"] == rung) & (table["state"] == "done") & table["recipe"].isin(recipes)]


def results(runs_dir: Path | str) -> pd.DataFrame:
    """A row per line of every ``results.jsonl``, with ``WHO`` and the state of its run in front.

    ``data`` is what the network was trained on, ``evaluated_on`` what the row was measured on; ``options`` is JSON.
    Where the same thing was measured twice the later line stands.
    """
    table = runs(runs_dir)
    rows: list[dict[str, Any]] = []
    for about in table.to_dict("records"):
        for line in _lines(Path(about["path"]) / "results.jsonl"):
            of_run = {k: about[k] for k in (*WHO, "state")}
            told = {"evaluated_on": line["data"], "options": json.dumps(line.get("options", {}), sort_keys=True)}
            rows.append({**line, **of_run, **told})
    columns = [*COLUMNS["evaluation"], "state", "n_train", "n_test", "cost_s"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.drop_duplicates([c for c in COLUMNS["evaluation"] if c != "value"], keep="last", ignore_index=True)


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """``pandas.read_csv`` of UTF-8; ``HardlabError`` that names the file where it holds no table."""
    try:
        return pd.read_csv(path, encoding="utf-8", **options)
    except (OSError, ValueError) as e:  # pandas' own errors, of bytes that are no text too, are ValueErrors
        raise HardlabError(f"The table '{path}' cannot be read: {type(e).__name__}: {' '.join(str(e).split())}.") from e


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """Run -> manifest, from the ``manifests.jsonl`` of a folder of tables; empty where there is none.

    Raises ``HardlabError`` that names the file, and the line where it is not JSON.
    """
    path = folder / "manifests.jsonl"
    try:
        return {m["id"]: {**m, "config": m["config"]} for m in _lines(path, appended=False)}
    except (KeyError, TypeError) as e:
        raise HardlabError(f"'{path}' holds a line that is no manifest: {type(e).__name__}: {e}.") from e


def top1(runs_dir: Path | str, names: Iterable[str], by: Sequence[str] = ("recipe",)) -> pd.DataFrame:
    """Top-1 of the frozen backbones of the runs of these names, a row per protocol and ``by``: mean, lo, hi, n of runs.

    One number a protocol: kNN at k = 20, the linear probe after its last epoch. Empty where nothing was evaluated.
    """
    rows = results(runs_dir)
    rows = rows[rows["run"].isin(set(names)) & (rows["features"] == "backbone")]
    rows = rows[rows["metric"].isin(["top1", "top1@k=20", "top1-last"])]
    keys = ["evaluated_on", "protocol", *by]
    told = [{**dict(zip(keys, key, strict=True)), **interval(of["value"])._asdict()} for key, of in rows.groupby(keys)]
    return pd.DataFrame(told, columns=[*keys, *Interval._fields])


def curves(runs_dir: Path | str) -> pd.DataFrame:
    """A row per line of every ``curves.jsonl``, as in ``results``, with ``step``, ``epoch`` and ``classifier_epoch``.

    ``classifier_epoch`` is NaN in the rows of a learning curve over checkpoints. Sorted by run, measurement and both.
    """
    rows: list[dict[str, Any]] = []
    for about in runs(runs_dir).to_dict("records"):
        for line in _lines(Path(about["path"]) / "curves.jsonl"):
            told = {"evaluated_on": line["data"], "options": json.dumps(line.get("options", {}), sort_keys=True)}
            rows.append({**line, **{k: about[k] for k in (*WHO, "state")}, **told})
    at = ["step", "epoch", "classifier_epoch"]
    what = [c for c in COLUMNS["evaluation"] if c != "value"]
    frame = pd.DataFrame(rows, columns=[*what, *at, "value", "state", "n_train", "n_test", "cost_s"])
    return frame.sort_values([*what, *at], kind="stable", ignore_index=True)


def choose(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of one setting: of the highest rung, then SimSiam (as in the paper), then the most arms and seeds."""
    if not len(frame):
        return frame
    each = frame.drop_duplicates(["rung", "data", "method", "setting", "arm", "seed"])
    seeds = each.groupby(["rung", "data", "method", "setting"], observed=True)["seed"].size().reset_index()
    best = max(
        seeds.itertuples(index=False),
        key=lambda s: (RUNGS.index(s.rung), s.method == "simsiam", s.seed, s.setting),
    )
    return frame[(frame["rung"] == best.rung) & (frame["setting"] == best.setting)]


def one_setting(done: pd.DataFrame) -> pd.DataFrame:
    """Of rows of ``runs``, those of one setting and arm per recipe, a run a seed: what may stand together in one mean.

    Of the data set of the most of these recipes, then of the most seeds, then the longest training, then the one that
    started last; of runs of one seed the last.
    """
    kept, recipes = [], done.groupby("data")["recipe"].nunique()
    for _, of in done.groupby("recipe", sort=False):
        of = of.sort_values(["started", "run"], kind="stable").drop_duplicates(list(SAME), keep="last")
        seeds = of.groupby(["setting", "arm"])["seed"].transform("nunique")
        ranked = of.assign(peers=of["data"].map(recipes), seeds=seeds)
        best = ranked.sort_values(["peers", "seeds", "epochs"], kind="stable").iloc[-1]
        kept.append(of[(of["setting"] == best["setting"]) & (of["arm"] == best["arm"])].sort_values("seed"))
    return pd.concat(kept, ignore_index=True) if kept else done


def choice(done: pd.DataFrame, kept: pd.DataFrame) -> str:
    """A line per recipe of what ``one_setting`` kept: setting, data, epochs, seeds, and the runs that it left out."""
    lines = []
    for name, of in kept.groupby("recipe", sort=False):
        others = done[(done["recipe"] == name) & ~done["run"].isin(of["run"])]
        left = [f"{row.run} ({row.epochs} epochs on {row.data}, setting {row.setting})" for row in others.itertuples()]
        seeds = f"seed{'s' if len(of) > 1 else ''} {', '.join(map(str, of['seed']))}"
        what = f"setting {of['setting'].iloc[0]} in {of['precision'].iloc[0]}"
        what += f", {of['epochs'].iloc[0]} epochs on {of['data'].iloc[0]}, {seeds}"
        lines.append(f"{name}: {what}; left out: {', '.join(left) or 'none'}")
    return "\n".join(lines)


def collect(
    runs_dir: Path | str,
    out_dir: Path | str,
    root: Path | str | None = None,
    *,
    add: bool = False,
    only: Sequence[str] | None = None,
) -> list[Path]:
    """Write every table of ``COLUMNS`` as CSV, the manifests of the runs, and HVS Figure 2's pictures; gives the paths.

    Only runs whose manifest says ``done`` count, and of runs of one recipe that differ in nothing but their name the
    one that started last. Rows are sorted, so the files are byte-identical when nothing changed. ``root`` is where the
    data sets lie; the pictures are left out where the run's images are not there or are not those it was trained on.
    add: rows and manifests of runs that are in ``out_dir`` and not in ``runs_dir`` stay (they were made on another
    machine), and importances and predictions of runs that have not changed are not computed again. only: tables to
    make instead of all; importances and what goes across the papers take the longest. Raises ``HardlabError`` before
    anything is written where there is no finished run to collect and nothing is added.
    """
    for name in only or ():
        if name not in COLUMNS:
            raise unknown("table", name, COLUMNS)
    wanted = set(COLUMNS if only is None else only)
    out = Path(out_dir)
    table = runs(runs_dir)
    done = table[table["state"] == "done"]
    if not len(done) and not add:  # tables without rows would take the place of those that are there
        raise HardlabError(
            f"There is no finished run in '{runs_dir}', no manifest.json that says 'done': `hardlab pretrain` makes "
            f"one; '{out}' stays as it was."
        )
    make_folder(out)
    done = done.sort_values(["started", "run"], kind="stable")
    done = done.drop_duplicates([*SAME, "recipe"], keep="last").sort_values("run", ignore_index=True)
    evaluation = results(runs_dir)
    evaluation = evaluation[evaluation["run"].isin(done["run"])]

    shares, overlaps, histograms = [], [], []
    needed = [
        c
        for c in viewlog.SCHEMA.names
        if c in ("epoch", "step", "index", "candidate", "a", "b", "chosen", *viewlog.BOX)
    ]
    for about in done.to_dict("records"):
        if about["arm"] not in (STANDARD, HVS, STATIC) or not viewlog.segments(about["path"]):
            continue
        log = viewlog.metrics(viewlog.read(about["path"], needed))
        who = {k: about[k] for k in WHO}
        if about["arm"] == STANDARD:
            series: dict[str, iou.Of] = {"standard": "chosen"}
        else:
            series = {"selected": "chosen", "first": "first", "others": "others"}
            shares.append(iou.lowest_iou_share(log).assign(**who))
        for name, of in series.items():
            overlaps.append(iou.mean_iou(log, of).assign(**who, series=name))
            histograms.append(iou.iou_histogram(log, of=of).assign(**who, series=name))

    share, overlap, histogram = _stack(shares), _stack(overlaps), _stack(histograms)
    each = done.to_dict("records")
    logged = {name: _stack([of(about) for about in each]) for name, of in _LOGGED.items() if name in wanted}
    if "negatives" in wanted:
        logged["negatives"] = _stack([_scores(about, root) for about in each if _negatives(about)])
    if wanted & {"importance", "predictability"}:
        logged |= _pairs(done, out if add else None)
    if add:
        logged = {name: _with_earlier(frame, out / f"{name}.csv", done) for name, frame in logged.items()}
        share = _with_earlier(share, out / "hvs_f4_right.csv", done)
        overlap = _with_earlier(overlap, out / "hvs_f4_left.csv", done)
        histogram = _with_earlier(histogram, out / "hvs_f3_right.csv", done)
        evaluation = _with_earlier(evaluation, out / "evaluation.csv", done)
        if "configs" in logged:
            logged["configs"] = _with_manifests(logged["configs"], evaluation, manifests(out))
    tables = {
        "hvs_f3_left": share[share["arm"] == HVS] if len(share) else share,
        "hvs_f3_right": histogram[histogram["arm"] != STATIC] if len(histogram) else histogram,
        "hvs_f4_left": overlap,
        "hvs_f4_right": share,
        "hvs_summary": _summary(share, overlap, evaluation),
        "evaluation": evaluation,
        **logged,
    }
    tiles = {name: of(done) for name, of in _TILED.items() if name in wanted}
    if "hvs_f2" in wanted:
        tiles["hvs_f2"] = _pictures(done, root)
    if wanted & {"hardness", "transfer"}:
        from hardlab.analysis import across  # it reads the table of runs of this module

        tables["hardness"], tables["transfer"], picture = across.collect(done, root)
        tiles["hardness"] = tables["hardness"], picture
    tables |= {name: frame for name, (frame, _) in tiles.items()}
    pictures = {name: picture for name, (_, picture) in tiles.items()}
    kept = [name for name in pictures if add and pictures[name] is None and (out / f"{name}_pixels.png").exists()]
    tables |= {name: _with_earlier(pd.DataFrame(), out / f"{name}.csv", done) for name in kept}
    if "hardness" in kept:  # these rows were measured together: all of them stay
        tables |= {n: _with_earlier(pd.DataFrame(), out / f"{n}.csv", done[:0]) for n in ("hardness", "transfer")}
    written = [_write(out / f"{n}.csv", tables[n], columns) for n, columns in COLUMNS.items() if n in wanted]
    # the tables name their runs; here is what each of them was
    told = {Path(p).name: json.loads((Path(p) / "manifest.json").read_text()) for p in done["path"]}
    if add:
        told = manifests(out) | told
    lines = [json.dumps(told[name]) + "\n" for name in sorted(told)]
    write_atomic(out / "manifests.jsonl", "".join(lines).encode())
    written.append(out / "manifests.jsonl")
    for name, picture in pictures.items():
        strip = out / f"{name}_pixels.png"
        if picture is not None:
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, format="png", optimize=True)
            write_atomic(strip, buffer.getvalue())
            written.append(strip)
        elif name not in kept:
            strip.unlink(missing_ok=True)  # pictures of other rows would be worse than none
    return written


def _pairs(done: pd.DataFrame, out: Path | None) -> dict[str, pd.DataFrame]:
    """What makes a pair hard, and whether the choice can be predicted from the other seeds' runs.

    out: a folder of tables, whose rows of seeds that are all the same as then are taken over: forests take minutes.
    """
    names = ("importance", "predictability")
    earlier = {n: _earlier(out / f"{n}.csv") if out else pd.DataFrame(columns=[*WHO]) for n in names}
    then = {name: m.get("ended") for name, m in manifests(out).items()} if out else {}
    found: dict[str, list[pd.DataFrame]] = {n: [] for n in names}
    for (shared, rung, which), of in done.groupby(["setting", "rung", "arm"], sort=True):
        each = of.to_dict("records")
        told = earlier["importance"]
        before = set(told.loc[(told["setting"] == shared) & (told["arm"] == which), "run"])
        same = before <= set(of["run"]) and all(r["ended"] and then.get(r["run"]) == r["ended"] for r in each)
        if same and all(r["run"] in before or pairs.read(r["path"]) is None for r in each):
            for n, rows in earlier.items():
                found[n].append(rows[rows["run"].isin(of["run"])].drop(columns=list(WHO[:-1])))
            continue
        effort = pairs.SMOKE if rung == "smoke" else pairs.FULL
        read = {r["run"]: log for r in each if (log := pairs.read(r["path"])) is not None}
        found["importance"] += [pairs.importances(log, effort).assign(run=name) for name, log in read.items()]
        found["predictability"].append(pairs.predictabilities(read, effort))
    stacked = {n: _stack(rows) for n, rows in found.items()}
    return {n: done[[*WHO]].merge(rows, on="run") if len(rows) else rows for n, rows in stacked.items()}


def _earlier(path: Path) -> pd.DataFrame:
    """A table that was written before; one without rows where there is none."""
    if not path.exists():
        return pd.DataFrame(columns=[*WHO])
    texts = dict.fromkeys(("setting", "run", "recipe", "options"), str)
    if path.stem == "configs":
        texts["value"] = str
    blank = ("value", "classifier_epoch", "distance", "age", "false_hardest", "false_all", "nearest_real")
    numbers = {} if path.stem == "configs" else dict.fromkeys(blank, "")
    return read_csv(path, dtype=texts, keep_default_na=False, na_values=numbers)


def _with_earlier(frame: pd.DataFrame, path: Path, done: pd.DataFrame) -> pd.DataFrame:
    """``frame`` and those rows of an earlier table that no run of ``done`` takes the place of."""
    earlier = _earlier(path)
    if not len(earlier):
        return frame
    mine = pd.MultiIndex.from_frame(done[[*SAME, "recipe"]])
    theirs = pd.MultiIndex.from_frame(earlier[[*SAME, "recipe"]])
    return pd.concat([f for f in (frame, earlier[~theirs.isin(mine)]) if len(f)] or [frame], ignore_index=True)


def _with_manifests(
    configs: pd.DataFrame, evaluation: pd.DataFrame, earlier: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """``configs``, and from the manifests those of evaluated runs that were collected before there was this table."""
    lacking = set(evaluation["run"]) - set(configs["run"] if len(configs) else ())
    named = evaluation[evaluation["run"].isin(lacking & earlier.keys())].drop_duplicates("run")
    return _stack([configs, *(_told(who, earlier[who["run"]]) for who in named[list(WHO)].to_dict("records"))])


def _row(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
        c = as_run(about)
        fraction = c["data"]["fraction"]
        return {
            "rung": c["rung"],
            "data": c["data"]["name"] + (f" {100 * fraction:g} %" if fraction < 1 else ""),
            "method": c["method"]["name"],
            "setting": setting(c),
            "arm": arm(c),
            "recipe": c["recipe"],
            "seed": c["seed"],
            "run": path.parent.name,
            "count": about["data"]["count"],
            "precision": c["precision"],
            "epochs": c["epochs"],
            "path": str(path.parent),
            **{k: about.get(k) for k in ("state", "epochs_done", "device", "commit", "dirty", "started", "ended")},
        }
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise HardlabError(f"The manifest '{path}' cannot be read: {type(e).__name__}: {e}.") from e


def _lines(path: Path, *, appended: bool = True) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; where lines are appended, a last one without its end (a kill) is no line."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise HardlabError(f"'{path}' cannot be read: {type(e).__name__}: {e}.") from e
    out = []
    for number, line in enumerate((text[: text.rfind("\n") + 1] if appended else text).splitlines(), 1):
        try:
            out.append(json.loads(line))
        except ValueError as e:
            raise HardlabError(f"Line {number} of '{path}' is not JSON: {e}.") from e
    return out


def _stack(parts: list[pd.DataFrame]) -> pd.DataFrame:
    parts = [p for p in parts if len(p)]  # an empty one would turn numbers into objects
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _summary(share: pd.DataFrame, overlap: pd.DataFrame, evaluation: pd.DataFrame) -> pd.DataFrame:
    """Per setting and arm, each quantity's mean over the seeds with its interval; differences are paired by seed.

    A run's share and IoU are means over its logged epochs, each epoch with the same weight.
    """
    per_run = [_quantities(share, {q: q for q in ("share", "chance", "control", "tied")}, prefix="lowest_iou_")]
    if len(overlap):
        per_run += [_quantities(rows, {"iou": f"iou_{name}"}) for name, rows in overlap.groupby("series", sort=True)]
    if len(evaluation):
        what = ["protocol", "metric", "features", "evaluated_on"]
        words = evaluation["protocol"] + " " + evaluation["metric"] + " of " + evaluation["features"]
        words += " on " + evaluation["evaluated_on"]
        several = evaluation.groupby(what)["options"].transform("nunique") > 1  # only then the options tell them apart
        words = words.where(~several, words + " " + evaluation["options"])
        per_run.append(evaluation.assign(quantity=words)[[*WHO, "quantity", "value"]])
    values = pd.concat([p for p in per_run if len(p)] or [pd.DataFrame(columns=[*WHO, "quantity", "value"])])
    # two recipes may be one and the same training, as stn-baseline is dino at most rungs: a seed counts once
    values = values.sort_values("recipe", kind="stable").drop_duplicates([*SAME, "quantity"])
    same = ["rung", "data", "method", "setting", "seed"]
    differences = []
    for (_, _), rows in values[values["arm"] != STANDARD].groupby(["setting", "arm"], sort=True):
        for quantity, mine in rows.groupby("quantity", sort=True):
            if quantity == "iou_selected":
                first = rows[rows["quantity"] == "iou_first"]
                differences.append(_difference(mine, first, same, "iou_selected - iou_first"))
                other, name = "iou_standard", "iou_selected - iou_standard"
            elif " of pixels on " in quantity:  # the same images for every arm: no gain
                continue
            else:
                other, name = quantity, f"{quantity}: gain"
            baseline = values[(values["arm"] == STANDARD) & (values["quantity"] == other)]
            differences.append(_difference(mine, baseline, same, name))
    out = []
    everything = pd.concat([values, *differences])
    for key, rows in everything.groupby(["rung", "data", "method", "setting", "arm", "quantity"], sort=True):
        rows = rows.sort_values(["seed", "run"])
        who = dict(zip(("rung", "data", "method", "setting", "arm", "quantity"), key, strict=True))
        together = {c: " ".join(dict.fromkeys(str(v) for v in rows[c])) for c in ("recipe", "seed", "run")}
        out.append({**who, **together, **interval(rows["value"])._asdict()})
    return pd.DataFrame(out, columns=list(COLUMNS["hvs_summary"]))


def _quantities(frame: pd.DataFrame, names: dict[str, str], prefix: str = "") -> pd.DataFrame:
    """Long form: a row per run and quantity, its mean over the epochs."""
    if not len(frame):
        return pd.DataFrame()
    means = frame.groupby(list(WHO), sort=True)[list(names)].mean().rename(columns=lambda c: prefix + names[c])
    return means.reset_index().melt(id_vars=list(WHO), var_name="quantity")


def _difference(mine: pd.DataFrame, other: pd.DataFrame, same: list[str], name: str) -> pd.DataFrame:
    """Per seed of one setting, mine - other."""
    both = mine.merge(other[[*same, "value"]], on=same, suffixes=("", "_other"))
    return both.assign(value=both["value"] - both["value_other"], quantity=name)[[*WHO, "quantity", "value"]]


def _pictures(done: pd.DataFrame, root: Path | str | None) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Images of the last logged step of one HVS run, and their pixels.

    Returns the log's rows, numbered by ``row``, and (rows*S, (1+N)*S, 3) uint8: the image, then its N views; or None.
    """
    logged = np.array([bool(viewlog.segments(p)) for p in done["path"]], dtype=bool)
    candidates = done[(done["arm"] == HVS) & logged]
    if not len(candidates):
        return pd.DataFrame(), None
    about = choose(candidates).sort_values(["seed", "run"]).iloc[0]
    log = viewlog.metrics(viewlog.read(about["path"]))
    log = log[log["step"] == log["step"].max()]
    found = np.sort(log["index"].unique())
    # evenly over the data set, which is often sorted by class; then in another order, so that the first three differ
    spread = found[np.linspace(0, len(found) - 1, min(PICTURES, len(found))).round().astype(int)]
    order = {int(index): row for row, index in enumerate(np.random.default_rng(0).permutation(spread))}
    log = log[log["index"].isin(order)].assign(row=lambda f: f["index"].map(order), **about[list(WHO)].to_dict())
    return log, _pixels(about, viewlog.slots(log).sort_values(["row", "slot"]), root)


def _pixels(about: pd.Series, views: pd.DataFrame, root: Path | str | None) -> np.ndarray | None:
    manifest = json.loads((Path(about["path"]) / "manifest.json").read_text())
    run = config.make(manifest["config"])
    try:
        images = build.images(run, root=root)
    except HardlabError:
        return None  # the data are not on this machine
    if images.digest() != manifest["data"]["digest"]:
        return None
    look = build.look(run)
    n = views["slot"].nunique()
    first = views.drop_duplicates("row")
    params = torch.from_numpy(views[list(PARAMS)].to_numpy(np.float32)).reshape(len(first), n, -1)
    batch = next(iter(images.batches(torch.tensor(first["index"].to_numpy(np.int64))[None])))
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (run.pixel_mean, run.pixel_std))
    seen = look.apply(batch.raw, params)  # (R,N,3,S,S)
    if seen.shape[-1] > CELL:
        seen = look.apply(batch.raw, params, CELL)
    size = seen.shape[-1]
    shown = ((seen * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    strip = np.full((len(first) * size, (1 + n) * size, 3), 255, np.uint8)
    for row in range(len(first)):
        h, w = batch.sizes[row].tolist()
        picture = Image.fromarray(batch.raw[row, :, :h, :w].permute(1, 2, 0).numpy())
        picture.thumbnail((size, size))
        down = slice(row * size, (row + 1) * size)
        strip[row * size : row * size + picture.height, : picture.width] = np.asarray(picture)
        for slot in range(n):
            strip[down, (1 + slot) * size : (2 + slot) * size] = shown[row, slot]
    return strip


def _curves(about: Mapping[str, Any]) -> pd.DataFrame:
    """The learning curves of a run: the lines of its ``curves.jsonl``, of a classifier's epochs some, top-1 alone."""
    lines = _lines(Path(about["path"]) / "curves.jsonl")
    trained: dict[str, set[int]] = {}  # the epochs of each protocol's classifier
    for line in lines:
        if epoch := line.get("classifier_epoch"):
            trained.setdefault(line["protocol"], set()).add(epoch)
    kept = {protocol: {None, *_some(sorted(epochs))} for protocol, epochs in trained.items()}
    rows = [
        {**line, **_who(about), "evaluated_on": line["data"]}
        | {"options": json.dumps(line.get("options", {}), sort_keys=True)}
        for line in lines
        if line.get("classifier_epoch") in kept.get(line["protocol"], {None})
        and (line["metric"] == "top1" or not line.get("classifier_epoch"))
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS["curves"]))
    return frame.drop_duplicates([c for c in COLUMNS["curves"] if c != "value"], keep="last", ignore_index=True)


def _some(epochs: list[int]) -> list[int]:
    """At most ``KEPT_EPOCHS`` of them, evenly from the first to the last."""
    if len(epochs) <= KEPT_EPOCHS:
        return epochs
    return [epochs[i] for i in np.linspace(0, len(epochs) - 1, KEPT_EPOCHS).round().astype(int)]


def _epochs(about: Mapping[str, Any]) -> pd.DataFrame:
    """Per kept epoch: loss, ``terms.<name>``, knn, and the mean over the epoch of each number logged at steps."""
    at: dict[int, dict[str, list[float]]] = {}
    for line in _lines(Path(about["path"]) / "metrics.jsonl"):
        numbers = at.setdefault(line["epoch"], {})
        if line["kind"] == "epoch":
            told: dict[str, Any] = {k: line[k] for k in ("loss", "knn") if k in line}
            told |= {f"terms.{k}": v for k, v in line["terms"].items()}
        else:
            told = {k: v for k, v in line.items() if k not in ("epoch", "step", "loss", "images_per_s", "lr", "terms")}
        for name, value in told.items():
            if isinstance(value, int | float) and np.isfinite(value):
                numbers.setdefault(name, []).append(value)
    epochs = _some(sorted(at))
    rows = [
        {**_who(about), "epoch": e, "name": name, "value": float(np.mean(values))}
        for e in epochs
        for name, values in at[e].items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS["epochs"]))


def _costs(about: Mapping[str, Any]) -> pd.DataFrame:
    """images_per_s, peak_memory_mb, parameters of the backbone, and the mean seconds of an epoch, whole and by part."""
    manifest = _manifest(about)
    told = {k: manifest.get(k) for k in ("images_per_s", "peak_memory_mb")}
    run = config.make(manifest["config"])
    with torch.device("meta"):
        told["parameters"] = sum(p.numel() for p in build.method(run).backbone.parameters())
    seconds: dict[str, list[float]] = {}
    for line in _lines(Path(about["path"]) / "metrics.jsonl"):
        for part, value in line.get("seconds", {}).items():
            seconds.setdefault(f"seconds.{part}", []).append(value)
    told |= {part: float(np.mean(values)) for part, values in seconds.items()}
    rows = [{**_who(about), "quantity": k, "value": v} for k, v in told.items() if v is not None]
    return pd.DataFrame(rows, columns=list(COLUMNS["costs"]))


def _configs(about: Mapping[str, Any]) -> pd.DataFrame:
    """The whole configuration of a run as it ran, dotted keys and values as JSON, and the device that it ran on."""
    return _told(about, _manifest(about))


def _told(about: Mapping[str, Any], manifest: Mapping[str, Any]) -> pd.DataFrame:
    told = {k: v for k, v in flat(as_run(manifest)) if not k.startswith(("parent.", "logs."))}
    told |= {"device": manifest.get("device")}
    rows = [{**_who(about), "key": k, "value": v if isinstance(v, str) else json.dumps(v)} for k, v in told.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS["configs"]))


def flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of a configuration, the strategies by their place in the list."""
    if isinstance(value, Mapping) and (value or not key):
        return [pair for k, v in value.items() for pair in flat(v, f"{key}.{k}" if key else k)]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [pair for i, v in enumerate(value) for pair in flat(v, f"{key}.{i}")]
    return [(key, value)]


def _who(about: Mapping[str, Any]) -> dict[str, Any]:
    return {k: about[k] for k in WHO}


def _manifest(about: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(about["path"]) / "manifest.json").read_text())
    return found


def _snapshots(done: pd.DataFrame, recipes: Sequence[str], part: str) -> tuple[dict[str, Any], list[Path]]:
    """Of the runs of the first of these recipes with the most snapshots of ``part``, one of the chosen setting."""
    for recipe in recipes:
        mine = done[done["recipe"] == recipe]
        kept = {p: sorted((Path(p) / "snapshots").glob(f"{part}-*.npz")) for p in mine["path"]}
        mine = mine[[bool(kept[p]) for p in mine["path"]]]
        if len(mine):
            strongest = mine[mine["rung"] == max(mine["rung"], key=RUNGS.index)]
            most = max(len(kept[p]) for p in strongest["path"])
            about = one_setting(strongest[[len(kept[p]) == most for p in strongest["path"]]]).iloc[0].to_dict()
            return about, kept[about["path"]]
    return {}, []


def _epoch(about: Mapping[str, Any], at: Path | int) -> float:
    """The epoch, counted from the start of training, at which a snapshot was taken; at: its file or its step."""
    step = int(at.stem.rpartition("-")[2]) if isinstance(at, Path) else int(at)
    return step / max(1, _manifest(about)["steps_done"]) * about["epochs_done"]


def _grid(tiles: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of pictures (3,h,w) uint8 of any size, each brought to the size of the largest, as one (H,W,3) picture."""
    size = min(CELL, max(t.shape[-1] for row in tiles for t in row))
    fit = [
        [np.asarray(Image.fromarray(t.transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR)) for t in row]
        for row in tiles
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in fit])


def _bytes(x: np.ndarray) -> np.ndarray:
    """Pictures in [0,1] as uint8."""
    return (np.clip(x, 0, 1) * 255).round().astype(np.uint8)


def _labels(about: Mapping[str, Any], labels: Sequence[Sequence[str]], epochs: Sequence[float]) -> pd.DataFrame:
    """A row per tile of a grid; epochs: of each column, or of all of them."""
    rows = [
        {**_who(about), "row": r, "tile": c, "epoch": epochs[c % len(epochs)], "label": label}
        for r, row in enumerate(labels)
        for c, label in enumerate(row)
    ]
    return pd.DataFrame(rows)


Tiles = tuple[pd.DataFrame, np.ndarray | None]


def _hexa_f1(done: pd.DataFrame) -> Tiles:
    """HEXA Fig. 1a: views, their adversaries, the difference made visible, mixtures; of four images."""
    about, files = _snapshots(done, ("hexa-plus-moco", "hexa-moco", "hexa-deepcluster"), "adversarial")
    if not files:
        return pd.DataFrame(), None
    held = dict(np.load(files[-1]))
    mixed = files[-1].with_name(files[-1].name.replace("adversarial", "cutmix"))
    held |= dict(np.load(mixed)) if mixed.exists() else {}
    names = [k for k in ("clean", "adversarial", "noise", "mixed") if k in held]
    tiles = [[_bytes(held[k][i]) for k in names] for i in range(min(4, len(held["clean"])))]
    return _labels(about, [names] * len(tiles), [_epoch(about, files[-1])]), _grid(tiles)


def _hvs_f11(done: pd.DataFrame) -> Tiles:
    """HVS Fig. 11: what the spatial transformer makes of four images at the end, large views before small ones."""
    about, files = _snapshots(done, ("stn-translation-scale-sym", "stn-translation-scale", "stn-affine"), "stn")
    if not files:
        return pd.DataFrame(), None
    with np.load(files[-1]) as held:
        names = sorted((k for k in held.files if k.startswith("view_")), key=lambda k: int(k[5:]))[:8]
        tiles = [[_bytes(held[k][i]) for k in names] for i in range(min(4, len(held[names[0]])))]
    titles = [f"view {int(k[5:]) + 1}" for k in names]
    return _labels(about, [titles] * len(tiles), [_epoch(about, files[-1])]), _grid(tiles)


def _ppcl_f6(done: pd.DataFrame) -> Tiles:
    """PPCL Fig. 6: what G and its average make of three fixed latents, at up to eight checkpoints."""
    about, files = _snapshots(done, ("ppcl", "ppcl-hard"), "generated")
    if not files:
        return pd.DataFrame(), None
    files = [files[i] for i in sorted(set(np.linspace(0, len(files) - 1, 8).round().astype(int)))]
    held = [dict(np.load(f)) for f in files]
    tiles = [[at[net][i] for at in held] for i in range(3) for net in ("g", "g_ema")]
    names = [[name] * len(files) for _ in range(3) for name in ("G", "average of G")]
    return _labels(about, names, [_epoch(about, f) for f in files]), _grid(tiles)


_TILED = {"hexa_f1": _hexa_f1, "hvs_f11": _hvs_f11, "ppcl_f6": _ppcl_f6}


def _negatives(about: Mapping[str, Any]) -> bool:
    """Whether a run's negatives are its own subject: of MoCo alone or of AdCo, not of MoCo with harder views."""
    if about["method"] != "moco" or not (about["arm"] == STANDARD or str(about["arm"]).startswith("adco")):
        return False
    try:
        return bool(negatives.banks(about["path"]))
    except HardlabError:
        return False


def _scores(about: Mapping[str, Any], root: Path | str | None) -> pd.DataFrame:
    """The negatives of a run as numbers, a row per snapshot."""
    found = negatives.scores(about["path"], root)
    return found.assign(**_who(about), epoch=[_epoch(about, step) for step in found["step"]])


def _adco_f2(about: Mapping[str, Any]) -> pd.DataFrame:
    """AdCo Fig. 2: negatives and the queries of the last six batches in the plane."""
    if not _negatives(about):
        return pd.DataFrame()
    shown = negatives.picture(about["path"])
    return shown.assign(**_who(about), epoch=_epoch(about, shown["step"].iloc[0]))


_LOGGED = {"curves": _curves, "epochs": _epochs, "costs": _costs, "configs": _configs, "adco_f2": _adco_f2}


def _write(path: Path, frame: pd.DataFrame, columns: Sequence[str]) -> Path:
    """Sorted rows, six significant digits, one kind of line end; whole or not at all."""
    frame = frame.reindex(columns=list(columns))
    frame = frame.sort_values(list(columns), kind="stable")
    write_atomic(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
    return path
