"""A folder of runs as tables: the runs, their results and curves; each manifest is read once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from hardlab import config, registry
from hardlab.analysis import arms, schema
from hardlab.analysis.intervals import Interval, interval
from hardlab.analysis.schema import WHO
from hardlab.errors import HardlabError
from hardlab.files import check_seal, damaged, of_run, read_lines, read_manifest

_FROM_MANIFEST = ("state", "epochs_done", "device", "commit", "dirty", "started", "ended")
RUNS = (
    *WHO, "state", "epochs", "epochs_done", "count", "precision", "device", "commit", "dirty",
    "started", "ended", "path",
)  # fmt: skip


class Catalog:
    """The runs of a folder. Raises ``HardlabError`` if the folder does not exist or a manifest cannot be read."""

    def __init__(self, runs_dir: Path | str) -> None:
        self.folder = Path(runs_dir)
        if not self.folder.is_dir():
            raise HardlabError(f"There is no folder of runs '{self.folder}'.")

    @cached_property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """Run -> manifest."""
        paths = sorted(self.folder.glob("*/manifest.json"))
        for name in (str(self.folder), *(path.parent.name for path in paths)):
            if name != name.encode(errors="replace").decode():
                raise HardlabError(f"The name {name!a} of a folder is not UTF-8, so no table holds it: rename it.")
        return {path.parent.name: read_manifest(path) for path in paths}

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per run, with the columns ``RUNS``."""
        rows = [_row(self.folder / name, manifest) for name, manifest in self.manifests.items()]
        return pd.DataFrame(rows, columns=list(RUNS))

    @cached_property
    def done(self) -> pd.DataFrame:
        """The finished runs; of runs of one recipe that differ in nothing but their name, the last to start."""
        return arms.once(self.runs[self.runs["state"] == "done"])

    @cached_property
    def results(self) -> pd.DataFrame:
        """A row per line of every ``results.jsonl``, with the columns ``WHO`` and the state of its run in front.

        ``data`` is the training set, ``evaluated_on`` the set of the evaluation, ``options`` JSON. Of repeated
        measurements the last line counts.
        """
        key = [c for c in schema.columns("evaluation") if c != "value"]
        columns = [*key, "value", "state", "n_train", "n_test", "cost_s"]
        frame = pd.DataFrame(self._measured("results.jsonl"), columns=columns)
        return frame.drop_duplicates(key, keep="last", ignore_index=True)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row per line of every ``curves.jsonl``, as ``results``, with ``step``, ``epoch``, ``classifier_epoch``.

        ``classifier_epoch`` is NaN in a learning curve over checkpoints. Rows are sorted by run, measurement, step and
        ``classifier_epoch``.
        """
        key = [c for c in schema.columns("evaluation") if c != "value"]
        at = ["step", "epoch", "classifier_epoch"]
        columns = [*key, *at, "value", "state", "n_train", "n_test", "cost_s"]
        frame = pd.DataFrame(self._measured("curves.jsonl"), columns=columns)
        return frame.sort_values([*key, *at], kind="stable", ignore_index=True)

    def _measured(self, file: str) -> list[dict[str, Any]]:
        rows = []
        for about in self.runs.to_dict("records"):
            rows += [measurement(line, about) for line in self.lines(about["run"], file)]
        return rows

    def lines(self, run: str, file: str) -> list[dict[str, Any]]:
        """The objects in a JSON-lines file of a run; none if the run has no such file.

        Raises HardlabError for a line of another run, and for a log that is not the one that the run ended with.
        """
        path = self.folder / run / file
        rows = of_run(read_lines(path), self.manifests[run].get("id", run), path)
        if file == "metrics.jsonl" and self.manifests[run].get("state") == "done":
            check_seal(path)
        return rows

    def finished(self, rung: str, recipes: Sequence[str], need: Sequence[str] | None = None) -> pd.DataFrame:
        """The finished runs of these recipes at a rung, in the order of the recipes, then by seed and start.

        need: the recipes that must have a run; by default all. Raises ``HardlabError`` that names those without one.
        """
        lacking = self.missing(rung, recipes if need is None else need)
        if lacking:
            commands = " and ".join(f"`{command}`" for command in lacking.values())
            names = ", ".join(lacking)
            raise HardlabError(f"There is no finished run of {names} in '{self.folder}': {commands} first.")
        place = {name: i for i, name in enumerate(recipes)}
        table = self._finished(rung, recipes)
        table = table.assign(place=table["recipe"].map(place))
        return table.sort_values(["place", "seed", "started"], ignore_index=True).drop(columns="place")

    def missing(self, rung: str, recipes: Sequence[str]) -> dict[str, str]:
        """The recipes without a finished run at a rung: recipe -> the command that trains it."""
        finished = set(self._finished(rung, recipes)["recipe"])
        return {name: f"hardlab pretrain {name} --rung {rung}" for name in recipes if name not in finished}

    def _finished(self, rung: str, recipes: Sequence[str]) -> pd.DataFrame:
        table = self.runs
        return table[(table["rung"] == rung) & (table["state"] == "done") & table["recipe"].isin(recipes)]

    def top1(self, names: Iterable[str], by: Sequence[str] = ("recipe",)) -> pd.DataFrame:
        """Top-1 of the frozen backbones of these runs: a row per protocol and ``by``, with mean, lo, hi, n.

        One number per protocol: kNN at k = 20, the linear probe after its last epoch. Empty if nothing was evaluated.
        """
        rows = self.results
        rows = rows[rows["run"].isin(set(names)) & (rows["features"] == "backbone")]
        rows = rows[rows["metric"].isin(["top1", "top1@k=20", "top1-last"])]
        keys = ["evaluated_on", "protocol", *by]
        means = [
            {**dict(zip(keys, key, strict=True)), **interval(group["value"])._asdict()}
            for key, group in rows.groupby(keys)
        ]
        return pd.DataFrame(means, columns=[*keys, *Interval._fields])


def measurement(line: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """A line of ``results.jsonl`` or ``curves.jsonl`` as a row of a table; about: the row of its run."""
    options = json.dumps(line.get("options", {}), sort_keys=True)
    of_run = {k: about[k] for k in (*WHO, "state")}
    return {**line, **of_run, "evaluated_on": line["data"], "options": options}


def arm(configuration: Mapping[str, Any]) -> str:
    """How a run differs from its baseline: ``standard``, ``untrained``, or its strategies, e.g. ``hvs draws=8``.

    Default options are left out. The user's own code adds the digest of its source, so that edited code is another
    arm.
    """
    if configuration["epochs"] == 0:
        return arms.UNTRAINED
    names = []
    for spec in configuration["hard"]:
        defaults: dict[str, Any] = {}
        with suppress(HardlabError):  # the user's code may not be loaded, or a package uninstalled
            defaults = {k: p.default for k, p in registry.options("strategy", spec["name"]).items()}
        changed = {k: v for k, v in sorted(spec["options"].items()) if k not in defaults or v != defaults[k]}
        changed |= {"source": spec["source"]} if spec.get("source") else {}
        names.append(" ".join([spec["name"], *(f"{k}={v}" for k, v in changed.items())]))
    return " + ".join(names) or arms.STANDARD


def setting(configuration: Mapping[str, Any]) -> str:
    """Eight hex digits of all that a run shares with its baseline: its whole configuration but strategies and seed.

    A parent of the run's own seed counts without it, so that the seeds of an arm share their setting.
    """
    whole = config.without_later_defaults(configuration)
    same = {k: v for k, v in whole.items() if k not in ("recipe", "seed", "hard", "logs")}
    if (parent := same.get("parent")) and parent.get("seed") == whole["seed"]:
        same["parent"] = {k: v for k, v in parent.items() if k != "seed"}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]


def _row(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    try:
        c = config.as_ran(manifest)
        fraction = c["data"]["fraction"]
        return {
            "rung": c["rung"],
            "data": c["data"]["name"] + (f" {100 * fraction:g} %" if fraction < 1 else ""),
            "method": c["method"]["name"],
            "setting": setting(c),
            "arm": arm(c),
            "recipe": c["recipe"],
            "seed": c["seed"],
            "run": folder.name,
            "count": manifest["data"]["count"],
            "precision": c["precision"],
            "epochs": c["epochs"],
            "path": str(folder),
            **{k: manifest.get(k) for k in _FROM_MANIFEST},
        }
    except (ValueError, LookupError, TypeError, AttributeError, HardlabError) as e:
        raise damaged(folder / "manifest.json", e) from e
