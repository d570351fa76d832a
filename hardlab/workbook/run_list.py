"""A folder of runs at a glance: list, show, compare, and delete; loads nothing heavy and reads manifests alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hardlab import files, registry
from hardlab.data import path_of
from hardlab.errors import HardlabError

WEIGHTS = ("checkpoints", "features")  # what pruning with `weights` deletes: most of the bytes, none of the rows
PRUNED = ".pruned"  # where a run goes before it is deleted, so that no table reads half of one
_SHOWN = ("knn", "linear-lbfgs", "linear")  # protocols whose first accuracy the list shows
DAMAGED = "damaged"


@dataclass
class Entry:
    """A run's folder. about: its manifest. fault: why that cannot be read, "" if it can. size: bytes on disk."""

    path: Path
    about: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    size: int = 0

    @property
    def state(self) -> str:
        """As in the manifest; a run that says ``running`` without a process that trains it was stopped."""
        state = DAMAGED if self.fault else str(self.about.get("state", DAMAGED))
        return "stopped" if state == "running" and not under_way(self.path) else state

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.about.get("config") or {})

    @property
    def health(self) -> list[str]:
        """The alarms of its log, in plain words."""
        alarms = self.about.get("health")
        alarms = alarms if isinstance(alarms, list) else []
        return [str(a["sentence"]) for a in alarms if isinstance(a, dict) and "sentence" in a]


def under_way(path: Path) -> bool:
    """Whether a process holds the lock of the run in this folder."""
    try:
        with open(path / "lock", opener=files.regular) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock, or this file system has none
        return False
    return False


def listed(runs_dir: Path) -> list[Entry]:
    """The runs of a folder by name; HardlabError if there is no such folder."""
    if not runs_dir.is_dir():
        raise HardlabError(f"There is no folder of runs '{runs_dir}'.")
    return [entry(path.parent) for path in sorted(runs_dir.glob("*/manifest.json"))]


def entry(path: Path) -> Entry:
    """A run's folder; a damaged manifest is its ``fault``."""
    try:
        return Entry(path, files.read_manifest(path / "manifest.json"), size=size(path))
    except HardlabError as e:
        return Entry(path, fault=str(e), size=size(path))


def find(runs_dir: Path, name: str) -> Entry:
    """The run of this name, path, or beginning of a name that only one run has. HardlabError for any other."""
    for path in (Path(name), runs_dir / name):
        if name and (path / "manifest.json").exists():
            return entry(path)
    names = [e.path.name for e in listed(runs_dir)]
    matches = [n for n in names if name and n.startswith(name)]
    if len(matches) == 1:
        return entry(runs_dir / matches[0])
    if matches:
        raise HardlabError(
            f"'{name}' begins the names of {len(matches)} runs: {', '.join(matches[:5])}; name one of them."
        )
    raise registry.unknown("run", name, names)


def size(path: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # deleted meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def readable(size: float) -> str:
    """Bytes in words: ``1.2 MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def accuracies(path: Path) -> dict[str, float]:
    """Protocol and metric -> the last value of the run's own network, in the order of the file."""
    rows = files.read_own_lines(path, "results.jsonl")
    return {f"{r['protocol']} {r['metric']} on {r['data']}": r["value"] for r in rows if r["features"] != "pixels"}


def _best_known(path: Path) -> str:
    """A first accuracy, for the list."""
    with contextlib.suppress(HardlabError):
        values = accuracies(path)
        for protocol in _SHOWN:
            for name, value in values.items():
                own, metric, *_ = name.split(" ")
                if own == protocol and metric in ("top1", "top1@k=20", "top1-last"):
                    return f"{100 * value:.1f} % {own}"
    return ""


def summary(e: Entry) -> dict[str, Any]:
    """A run as one row of plain values."""
    c = e.config
    return {
        "run": e.path.name,
        "state": e.state,
        "epochs": f"{e.about.get('epochs_done', 0)}/{c.get('epochs', '?')}",
        "data": _called(c),
        "started": str(e.about.get("started", ""))[:16].replace("T", " "),
        "result": _best_known(e.path),
        "health": f"{len(e.health)} alarm{'s' * (len(e.health) != 1)}" if e.health else "",
        "bytes": e.size,
    }


def _called(c: Mapping[str, Any]) -> str:
    data = c.get("data") or {}
    name = str(data.get("name", ""))
    return Path(name).name if path_of(name) else name


def table(entries: Sequence[Entry]) -> str:
    """The runs in columns, and their number and size below."""
    rows = [summary(e) for e in entries]
    cells = [{k: v for k, v in row.items() if k != "bytes"} | {"size": readable(row["bytes"])} for row in rows]
    lines = columns(cells)
    states = [e.state for e in entries]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    return "\n".join([*lines, f"{len(rows)} runs ({counts}), {readable(sum(r['bytes'] for r in rows))}"])


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as lines of aligned columns under a head; columns without any value are left out."""
    keys = [k for k in (rows[0] if rows else {}) if any(str(r[k]) for r in rows)]
    wide = {k: max(len(k), *(len(str(r[k])) for r in rows)) for k in keys}
    lines = [{k: k for k in keys}, *rows]
    return ["  ".join(f"{line[k]!s:{wide[k]}}" for k in keys).rstrip() for line in lines]


def describe(e: Entry, runs_dir: Path) -> str:
    """All that is known of a run, in words: settings, time, health, results, files, parent and children."""
    if e.fault:
        return f"{e.path.name}: {e.fault}\n{readable(e.size)} on disk"
    about, c = e.about, e.config
    changed = " with changes" if about.get("dirty") else ""
    lines = [
        f"{e.path.name}: {e.state}, {about.get('epochs_done', 0)} of {c.get('epochs', '?')} epochs",
        f"  recipe   {c.get('recipe')} at rung {c.get('rung')}, seed {about.get('seed')}",
        f"  method   {_spec(c.get('method'))}; {_spec(c.get('backbone'))}",
        f"  hard     {'; '.join(_spec(s) for s in c.get('hard') or []) or 'none (standard training)'}",
        f"  data     {about.get('data', {}).get('count', '?')} images of {_called(c)}",
        f"  machine  {about.get('device')}, {about.get('precision')}, {about.get('images_per_s', '?')} images/s",
        f"  time     {about.get('started')} to {about.get('ended') or 'now'}",
        f"  code     commit {str(about.get('commit'))[:10]}{changed}",
    ]
    lines += [f"  error    {about['error']}"] if about.get("error") else []
    lines += [f"  health   {line}" for line in e.health or ["no alarm"]]
    with contextlib.suppress(HardlabError):
        lines += [f"  result   {name} {value:.4f}" for name, value in accuracies(e.path).items()]
    lines += [f"  parent   {about['parent']}"] if about.get("parent") else []
    children = [entry.path.name for entry in listed(runs_dir) if entry.about.get("parent") == e.path.name]
    lines += [f"  child    {name}" for name in children]
    parts = {p.name: size(p) if p.is_dir() else p.lstat().st_size for p in sorted(e.path.iterdir())}
    lines += [f"  disk     {readable(e.size)}: " + ", ".join(f"{n} {readable(b)}" for n, b in parts.items() if b)]
    return "\n".join(lines)


def _spec(spec: Any) -> str:
    if not isinstance(spec, dict):
        return "?"
    options = ", ".join(f"{k}={v}" for k, v in (spec.get("options") or {}).items())
    return f"{spec.get('name')} ({options})" if options else str(spec.get("name"))


def compare(entries: Sequence[Entry]) -> dict[str, dict[str, list[Any]]]:
    """What differs between runs: ``settings`` and ``results``, key -> a value per run, None where one has none.

    HardlabError for a damaged run.
    """
    for e in entries:
        if e.fault:
            raise HardlabError(e.fault)
    flat = [dict(_flat(e.config)) for e in entries]
    settings = {key: [f.get(key) for f in flat] for key in dict.fromkeys(k for f in flat for k in f)}
    measured = [accuracies(e.path) for e in entries]
    results = {key: [m.get(key) for m in measured] for key in dict.fromkeys(k for m in measured for k in m)}
    differ = {key: values for key, values in settings.items() if len({json.dumps(v) for v in values}) > 1}
    return {"settings": differ, "results": results}


def _flat(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a configuration by their keys; strategies by their names."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name != "recipe" or key:
                yield from _flat(value, f"{key}.{name}" if key else name)
    elif key == "hard" and tree:
        yield "hard", [s["name"] for s in tree]
        for s in tree:
            yield from _flat(s["options"], f"hard.{s['name']}")
    else:
        yield key, tree


def compared(entries: Sequence[Entry]) -> str:
    """``compare`` as text."""
    names = [e.path.name for e in entries]
    lines = []
    for title, values in compare(entries).items():
        rows = [{title: key, **{n: _value(v) for n, v in zip(names, row, strict=True)}} for key, row in values.items()]
        lines += [*(columns(rows) or [f"no {title} {'differ' if title == 'settings' else 'were measured'}"]), ""]
    return "\n".join(lines[:-1])


def _value(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Pruning:
    """What would be deleted: run -> bytes; and why other chosen runs stay, run -> a sentence."""

    deleted: dict[str, int]
    kept: dict[str, str]
    weights: bool


def plan_pruning(
    runs_dir: Path, names: Sequence[str] = (), states: Sequence[str] = (), older_days: float = 0, weights: bool = False
) -> Pruning:
    """What to delete of a folder of runs: those of these names, and those in these states since ``older_days`` days.

    weights: only their checkpoints and features. A run under way stays, and so does one that another needs as its
    parent, unless that is deleted too. HardlabError for an unknown name.
    """
    entries = {e.path.name: e for e in listed(runs_dir)}
    chosen = [find(runs_dir, name).path for name in names]
    for path in chosen:
        if path.resolve().parent != runs_dir.resolve():
            raise HardlabError(f"'{path}' is not in '{runs_dir}': name its own folder of runs with --runs.")
    now = datetime.now().astimezone()
    aged = [n for n, e in entries.items() if e.state in states and _days(e, now) >= older_days]
    chosen_names = list(dict.fromkeys([*(path.name for path in chosen), *aged]))
    kept = {n: "it is under way" for n in chosen_names if under_way(runs_dir / n)}
    while True:  # a child that stays keeps its parent, which keeps its own
        going = [n for n in chosen_names if n not in kept]
        children: dict[str, str] = {}
        for child, e in entries.items():
            if child not in going or weights:
                children.setdefault(str(e.about.get("parent")), child)
        new = {n: f"{children[n]} needs it as its parent" for n in going if n in children}
        # finished children keep what they took of the weights, so that a parent's may go with theirs
        if weights:
            new = {n: why for n, why in new.items() if entries[children[n]].state != "done"}
        if not new:
            break
        kept |= new
    sizes = {n: sum(size(runs_dir / n / w) for w in WEIGHTS) if weights else entries[n].size for n in going}
    return Pruning({n: b for n, b in sizes.items() if b or not weights}, kept, weights)


def _days(e: Entry, now: datetime) -> float:
    try:
        at = datetime.fromisoformat(e.about.get("ended") or e.about["started"])
        return (now - at).total_seconds() / 86400
    except (KeyError, TypeError, ValueError):
        return float("inf")


def prune(runs_dir: Path, plan: Pruning) -> list[str]:
    """Delete what a plan names, each run under its lock; returns the names. Raises HardlabError if it cannot."""
    deleted: list[str] = []
    for name in plan.deleted:
        path = runs_dir / name
        with _locked(path) as free:
            if not free:  # it was started after the plan was made
                continue
            try:
                if plan.weights:
                    for part in WEIGHTS:
                        if (path / part).exists():
                            shutil.rmtree(path / part)
                else:
                    gone = runs_dir / PRUNED / f"{name}-{os.getpid()}"
                    gone.parent.mkdir(exist_ok=True)
                    path.rename(gone)
                    shutil.rmtree(gone)
                    with contextlib.suppress(OSError):
                        gone.parent.rmdir()
            except OSError as e:
                raise HardlabError(
                    f"{path} cannot be deleted ({e.strerror}); {len(deleted)} runs before it were."
                ) from e
        deleted.append(name)
    return deleted


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a run, if no process has it."""
    try:
        with open(path / "lock", "a", opener=files.regular) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
    except BlockingIOError:
        yield False
