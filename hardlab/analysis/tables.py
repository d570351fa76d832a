"""Builds the tidy tables that figures and claims read from finished runs: one builder for each table."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hardlab import build, config
from hardlab.analysis import arms, claims, iou, negatives, pairs, pictures, schema, shared_batch, viewlog
from hardlab.analysis.arms import HVS, STANDARD, STATIC, not_replaced
from hardlab.analysis.catalog import Catalog, measurement
from hardlab.analysis.pictures import Table, epoch_of
from hardlab.analysis.schema import WHO, who
from hardlab.analysis.summary import quantities, summary
from hardlab.config import Run
from hardlab.errors import HardlabError
from hardlab.files import make_folder, write_atomic
from hardlab.registry import unknown

KEPT_EPOCHS = 25  # of each run in ``epochs``, of each classifier in ``curves``, evenly from the first to the last
# the last parts of the names of numbers in ``epochs`` that figures show or alarms rest on; claims name theirs
SHOWN = ("loss", "knn", "pair_cosine", "std", "rank", "norm", "g_spread", "d_spread", "d_loss", "frac_nonempty")


def collect(
    runs_dir: Path | str,
    out_dir: Path | str,
    root: Path | str | None = None,
    *,
    add: bool = False,
    only: Sequence[str] | None = None,
) -> list[Path]:
    """Write the tables of ``schema.FILES`` as CSV, the runs' manifests and the pictures; returns the paths.

    Only finished runs count; of runs of one recipe that differ in nothing but their name, only the one that started
    last. Rows are sorted, so the files are byte-identical if nothing changed.

    root: the folder of the data sets; a picture is left out if the run's images are missing or are not those it was
        trained on.
    add: keep the rows and manifests of runs in ``out_dir`` that are not in ``runs_dir``, or lack there what a table is
        made from, such as weights: they may come from another machine (``arms.not_replaced`` has the rule). Importances
        and predictions of unchanged runs are not computed again.
    only: the tables to write instead of all; importances and the comparison across the papers take the longest.

    Raises ``HardlabError`` before anything is written if there is no finished run and ``add`` is off.
    """
    for name in only or ():
        if name not in BUILDERS:
            raise unknown("table", name, BUILDERS)
    out = Path(out_dir)
    sources = Sources(Catalog(runs_dir), out if add else None, root)
    if not len(sources.done) and not add:  # tables without rows would overwrite the existing ones
        raise HardlabError(
            f"'{runs_dir}' has no finished run (no manifest.json with state 'done'): `hardlab pretrain` makes "
            f"one; '{out}' stays as it was."
        )
    # of the tables that stay as they are
    beside = schema.read_manifests(out) if add or only is not None else {}
    earlier_runs = schema.read_runs(out) if add or only is not None else schema.empty_runs()
    made = {name: build_table(sources) for name, build_table in BUILDERS.items() if only is None or name in only}
    kept = [name for name in PICTURED if name in made and add and made[name].picture is None]
    made |= {name: sources.one_run(name, made[name]) for name in kept if name in OF_ONE_RUN}
    done = sources.done
    runs = pd.concat([done[list(WHO)], earlier_runs]) if len(earlier_runs) else done[list(WHO)]
    make_folder(out)
    # the tables name their runs; the manifests say what each run was
    manifests = {**beside, **{run: sources.catalog.manifests[run] | {"id": run} for run in done["run"]}}
    listed = [{k: v for k, v in manifests[name].items() if k != "files"} for name in sorted(manifests)]
    lines = [json.dumps(manifest) + "\n" for manifest in listed]
    write_atomic(out / "manifests.jsonl", "".join(lines).encode())
    written = schema.write(out, {name: t.frame for name, t in made.items()}, runs.drop_duplicates("run"))
    written.append(out / "manifests.jsonl")
    for name in PICTURED:
        if name in made and name not in kept:
            written += _write_picture(out / f"{name}_pixels.png", made[name].picture)
    return written


class Overlaps(NamedTuple):
    """The overlap of views in the view logs: the tables hvs_f4_right, hvs_f4_left, hvs_f3_right and hvs_distance."""

    share: pd.DataFrame
    mean: pd.DataFrame
    histogram: pd.DataFrame
    distance: pd.DataFrame


class Sources:
    """The inputs of one collection of tables, each read once.

    earlier: a folder of tables; the rows there that no run of the catalogue replaces are kept.
    """

    def __init__(self, catalog: Catalog, earlier: Path | None = None, root: Path | str | None = None) -> None:
        self.catalog, self.earlier, self.root = catalog, earlier, root

    @property
    def done(self) -> pd.DataFrame:
        return self.catalog.done

    @cached_property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """Run -> manifest, as collected before."""
        return schema.read_manifests(self.earlier) if self.earlier else {}

    @cached_property
    def overlaps(self) -> Overlaps:
        """From the view logs of standard training and HVS; other arms do not select by the loss alone."""
        shares, means, histograms, distances = [], [], [], []
        needed = [
            c
            for c in viewlog.SCHEMA.names
            if c in ("epoch", "step", "index", "candidate", "a", "b", "chosen", *viewlog.BOX, *viewlog.IMAGE)
        ]
        for about in self.done.to_dict("records"):
            if about["arm"] not in (STANDARD, HVS, STATIC) or not viewlog.segments(about["path"]):
                continue
            log = viewlog.metrics(viewlog.read(about["path"], needed))
            if about["arm"] == STANDARD:
                series: dict[str, iou.Pair] = {"standard": "chosen"}
            else:
                series = {"selected": "chosen", "first": "first", "others": "others"}
                shares.append(iou.lowest_iou_share(log).assign(**who(about)))
            for name, frames in series.items():
                means.append(iou.mean_iou(log, frames).assign(**who(about), series=name))
                histograms.append(iou.iou_histogram(log, pair=frames).assign(**who(about), series=name))
                if "centre_distance" in log:
                    apart = iou.mean_iou(log, frames, "centre_distance")
                    distances.append(apart.assign(**who(about), series=name))
        return Overlaps(
            self.with_earlier(_stack(shares), "hvs_f4_right"),
            self.with_earlier(_stack(means), "hvs_f4_left"),
            self.with_earlier(_stack(histograms), "hvs_f3_right"),
            self.with_earlier(_stack(distances), "hvs_distance"),
        )

    @cached_property
    def evaluation(self) -> pd.DataFrame:
        results = self.catalog.results
        return self.with_earlier(results[results["run"].isin(self.done["run"])], "evaluation")

    @cached_property
    def chosen_pairs(self) -> dict[str, pd.DataFrame]:
        """``importance`` and ``predictability``."""
        return {name: self.with_earlier(rows, name) for name, rows in _pairs(self).items()}

    @cached_property
    def shared(self) -> shared_batch.SharedBatch:
        """``hardness`` and ``transfer``, with the earlier rows of runs that cannot be judged here."""
        before = shared_batch.SharedBatch(self.earlier_rows("hardness"), self.earlier_rows("transfer"), None)
        return shared_batch.judge(self.catalog, self.root, before=before, manifests=self.manifests)

    def earlier_rows(self, name: str) -> pd.DataFrame:
        """The rows of an earlier table; those of runs in the catalogue say of the run what the catalogue says."""
        rows = schema.read(self.earlier, name, whole=False) if self.earlier else pd.DataFrame()
        about = {run["run"]: run for run in self.done[list(WHO)].to_dict("records")}
        if about.keys() & set(rows["run"] if len(rows) else ()):
            for column in WHO[:-1]:
                pairs = zip(rows["run"], rows[column], strict=True)
                rows[column] = [about[run][column] if run in about else value for run, value in pairs]
        return rows

    def of_runs(self, name: str, rows_of_run: Callable[[Sources, Mapping[str, Any]], pd.DataFrame]) -> pd.DataFrame:
        """The rows that a function returns for every run, with the earlier rows of the table."""
        return self.with_earlier(_stack([rows_of_run(self, about) for about in self.done.to_dict("records")]), name)

    def with_earlier(self, frame: pd.DataFrame, name: str) -> pd.DataFrame:
        """``frame`` and the rows of the earlier table that no run of the catalogue replaces (``arms.not_replaced``)."""
        earlier = self.earlier_rows(name)
        if not len(earlier):
            return frame
        kept = [part for part in (frame, not_replaced(earlier, frame)) if len(part)]
        return pd.concat(kept or [frame], ignore_index=True)

    def one_run(self, name: str, table: Table) -> Table:
        """A table of one run without a new picture: the earlier rows, if there are any, with their picture."""
        pictured = self.earlier is not None and (self.earlier / f"{name}_pixels.png").exists()
        earlier = self.earlier_rows(name)
        return Table(earlier) if len(earlier) and (pictured or not len(table.frame)) else table


# ---------------------------------------------------------------------------------------------- builders


def _share_of_hvs(sources: Sources) -> Table:
    share = sources.overlaps.share
    return Table(share[share["arm"] == HVS] if len(share) else share)


def _histogram(sources: Sources) -> Table:
    histogram = sources.overlaps.histogram
    return Table(histogram[histogram["arm"] != STATIC] if len(histogram) else histogram)


def _summary(sources: Sources) -> Table:
    """The quantities of the view logs; those of evaluations are not written, because nothing shows them."""
    rows = summary(sources.overlaps.share, sources.overlaps.mean, sources.evaluation)
    rows = rows[rows["name"] != ""]
    return Table(rows.assign(quantity=quantities(rows)))


def _curves(sources: Sources, about: Mapping[str, Any]) -> pd.DataFrame:
    """The learning curves of a run from its ``curves.jsonl``; of a classifier's epochs only some, and only top-1."""
    lines = sources.catalog.lines(about["run"], "curves.jsonl")
    trained: dict[str, set[int]] = {}  # the epochs of each protocol's classifier
    for line in lines:
        if epoch := line.get("classifier_epoch"):
            trained.setdefault(line["protocol"], set()).add(epoch)
    kept = {protocol: {None, *_some(sorted(epochs))} for protocol, epochs in trained.items()}
    rows = [
        measurement(line, about)
        for line in lines
        if line.get("classifier_epoch") in kept.get(line["protocol"], {None})
        and (line["metric"] == "top1" or not line.get("classifier_epoch"))
    ]
    columns = schema.columns("curves")
    frame = pd.DataFrame(rows, columns=columns)
    return frame.drop_duplicates([c for c in columns if c != "value"], keep="last", ignore_index=True)


def _some(epochs: list[int]) -> list[int]:
    """At most ``KEPT_EPOCHS`` of the epochs, evenly spaced from the first to the last."""
    if len(epochs) <= KEPT_EPOCHS:
        return epochs
    return [epochs[i] for i in np.linspace(0, len(epochs) - 1, KEPT_EPOCHS).round().astype(int)]


def _epochs(sources: Sources, about: Mapping[str, Any]) -> pd.DataFrame:
    """Per kept epoch: loss, objective, ``terms.<name>``, knn, and the mean of each number that is logged at steps.

    objective: the weighted sum of the terms, which the learner minimises; only where a strategy weights a term.
    """
    at: dict[int, dict[str, list[float]]] = {}
    weights = _weights(config.of(sources.catalog.manifests[about["run"]]))
    for line in sources.catalog.lines(about["run"], "metrics.jsonl"):
        numbers = at.setdefault(line["epoch"], {})
        if line["kind"] == "epoch":
            logged: dict[str, Any] = {k: line[k] for k in ("loss", "knn") if k in line}
            logged |= {f"terms.{k}": v for k, v in line["terms"].items()}
            if weights:
                logged["objective"] = sum(weights.get(k, 1.0) * v for k, v in line["terms"].items())
        else:
            signs = ("loss_of_guess", "copies", "false_weight", "false_chance")  # of its health alone
            left_out = ("epoch", "step", "loss", *signs, "images_per_s", "lr", "terms")
            logged = {k: v for k, v in line.items() if k not in left_out}
        for name, value in logged.items():
            if isinstance(value, int | float) and np.isfinite(value):
                numbers.setdefault(name, []).append(value)
    epochs = _some(sorted(at))
    rows = [
        {**who(about), "epoch": e, "name": name, "value": float(np.mean(values))}
        for e in epochs
        for name, values in at[e].items()
    ]
    return pd.DataFrame(rows, columns=schema.columns("epochs"))


def _weights(run: Run) -> dict[str, float]:
    """The weights of the strategies' terms in the learner's objective; none with the user's own code."""
    if any(spec.source is not None for spec in run.hard):
        return {}
    with torch.device("meta"):
        return {name: weight for h in build.strategies(run) for name, weight in h.weights.items()}


def _shown_epochs(sources: Sources) -> Table:
    """The numbers of the epochs that a figure shows, a claim is judged by, or an alarm may rest on."""
    rows = sources.of_runs("epochs", _epochs).reindex(columns=schema.columns("epochs"))
    measures = [claim.seen(side) for claim in claims.load() for side in claim.arms]
    judged = {m.where.get("name") for m in measures if m.table == "epochs"}
    return Table(rows[rows["name"].isin(judged) | rows["name"].astype(str).str.split(".").str[-1].isin(SHOWN)])


def _costs(sources: Sources, about: Mapping[str, Any]) -> pd.DataFrame:
    """images_per_s, peak_memory_mb, parameters of the backbone, and the mean seconds of an epoch, whole and by part."""
    manifest = sources.catalog.manifests[about["run"]]
    costs = {k: manifest.get(k) for k in ("images_per_s", "peak_memory_mb")}
    run = config.of(manifest)
    with torch.device("meta"):
        costs["parameters"] = sum(p.numel() for p in build.method(run).backbone.parameters())
    seconds: dict[str, list[float]] = {}
    for line in sources.catalog.lines(about["run"], "metrics.jsonl"):
        for part, value in line.get("seconds", {}).items():
            seconds.setdefault(f"seconds.{part}", []).append(value)
    costs |= {part: float(np.mean(values)) for part, values in seconds.items()}
    rows = [{**who(about), "quantity": k, "value": v} for k, v in costs.items() if v is not None]
    return pd.DataFrame(rows, columns=schema.columns("costs"))


def _of_negatives(about: Mapping[str, Any]) -> bool:
    """Whether to score a run's negatives: MoCo without strategies, or AdCo, but not MoCo with harder views."""
    if about["method"] != "moco" or not (about["arm"] == STANDARD or str(about["arm"]).startswith("adco")):
        return False
    try:
        return bool(negatives.banks(about["path"]))
    except HardlabError:
        return False


def _scores(sources: Sources, about: Mapping[str, Any]) -> pd.DataFrame:
    """The scores of a run's negatives, a row per snapshot."""
    if not _of_negatives(about):
        return pd.DataFrame()
    scores = negatives.scores(about["path"], sources.root)
    manifest = sources.catalog.manifests[about["run"]]
    return scores.assign(**who(about), epoch=[epoch_of(manifest, int(step)) for step in scores["step"]])


def _with_labels(sources: Sources) -> Table:
    """The scores of negatives; those that need the run's images or checkpoint stay as they were where these lack."""
    rows, earlier = sources.of_runs("negatives", _scores), sources.earlier_rows("negatives")
    if len(rows) and len(earlier):
        at, labels = ["run", "step"], list(schema.FROM_LABELS)
        rows = rows.merge(earlier.reindex(columns=[*at, *labels]), on=at, how="left", suffixes=("", "_then"))
        for name in labels:
            rows[name] = rows[name].fillna(rows.pop(f"{name}_then"))
    return Table(rows)


def _layouts(sources: Sources) -> Table:
    """The distances of all runs, and of each arm the layout of the first seed, since no figure shows others."""
    rows = sources.of_runs("adco_f2", _layout)
    if not len(rows):
        return Table(rows)
    shown = rows["run"].isin(arms.first_seeds(rows))
    rows = rows.assign(**{c: rows[c].where(shown) for c in "xy"})
    return Table(rows.dropna(subset=["x", "y", "distance"], how="all"))


def _layout(sources: Sources, about: Mapping[str, Any]) -> pd.DataFrame:
    """AdCo Fig. 2: a layout in the plane of the negatives and the queries of the last six batches."""
    if not _of_negatives(about):
        return pd.DataFrame()
    shown = negatives.picture(about["path"])
    manifest = sources.catalog.manifests[about["run"]]
    return shown.assign(**who(about), epoch=epoch_of(manifest, int(shown["step"].iloc[0])))


def _pairs(sources: Sources) -> dict[str, pd.DataFrame]:
    """Which parameters make a pair hard, and whether runs of other seeds predict the selected pair.

    Earlier rows are reused if all seeds of a setting are unchanged, because forests take minutes.
    """
    done, names = sources.done, ("importance", "predictability")
    earlier = {n: rows if len(rows := sources.earlier_rows(n)) else schema.empty(n) for n in names}
    then = {name: m.get("ended") for name, m in sources.manifests.items()}
    tables: dict[str, list[pd.DataFrame]] = {n: [] for n in names}
    for (shared, rung, which), group in done.groupby(["setting", "rung", "arm"], sort=True):
        each = group.to_dict("records")
        rows = earlier["importance"]
        before = set(rows.loc[(rows["setting"] == shared) & (rows["arm"] == which), "run"])
        same = before <= set(group["run"]) and all(r["ended"] and then.get(r["run"]) == r["ended"] for r in each)
        if same and all(r["run"] in before or pairs.read(r["path"]) is None for r in each):
            for n, rows in earlier.items():
                tables[n].append(rows[rows["run"].isin(group["run"])].drop(columns=[c for c in WHO if c != "run"]))
            continue
        effort = pairs.SMOKE if rung == "smoke" else pairs.FULL
        read = {r["run"]: log for r in each if (log := pairs.read(r["path"])) is not None}
        tables["importance"] += [pairs.importances(log, effort).assign(run=name) for name, log in read.items()]
        tables["predictability"].append(pairs.predictabilities(read, effort))
    stacked = {n: _stack(rows) for n, rows in tables.items()}
    return {n: done[[*WHO]].merge(rows, on="run") if len(rows) else rows for n, rows in stacked.items()}


BUILDERS: dict[str, Callable[[Sources], Table]] = {
    "hvs_f2": lambda s: pictures.logged_views(s.catalog, s.root, s.earlier_rows("hvs_f2")),
    "hvs_f3_left": _share_of_hvs,
    "hvs_f3_right": _histogram,
    "hvs_f4_left": lambda s: Table(s.overlaps.mean),
    "hvs_f4_right": lambda s: Table(s.overlaps.share),
    "hvs_distance": lambda s: Table(s.overlaps.distance),
    "hvs_summary": _summary,
    "evaluation": lambda s: Table(s.evaluation),
    "curves": lambda s: Table(s.of_runs("curves", _curves)),
    "epochs": _shown_epochs,
    "costs": lambda s: Table(s.of_runs("costs", _costs)),
    "importance": lambda s: Table(s.chosen_pairs["importance"]),
    "predictability": lambda s: Table(s.chosen_pairs["predictability"]),
    "hexa_f1": lambda s: pictures.attacked(s.catalog, s.earlier_rows("hexa_f1")),
    "hvs_f11": lambda s: pictures.transformed(s.catalog, s.earlier_rows("hvs_f11")),
    "ppcl_f6": lambda s: pictures.generated(s.catalog, s.earlier_rows("ppcl_f6")),
    "adco_f2": _layouts,
    "negatives": _with_labels,
    "hardness": lambda s: Table(s.shared.hardness, s.shared.pixels),
    "transfer": lambda s: Table(s.shared.transfer),
}
OF_ONE_RUN = ("hexa_f1", "hvs_f11", "ppcl_f6", "hvs_f2")
PICTURED = (*OF_ONE_RUN, "hardness")  # tables that have a picture


def _stack(parts: list[pd.DataFrame]) -> pd.DataFrame:
    parts = [p for p in parts if len(p)]  # an empty one would turn numbers into objects
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _write_picture(path: Path, picture: np.ndarray | None) -> list[Path]:
    """Write the picture, or delete the earlier one, which shows other rows, if there is none; returns the paths."""
    if picture is None:
        path.unlink(missing_ok=True)
        return []
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png", optimize=True)
    write_atomic(path, buffer.getvalue())
    return [path]
