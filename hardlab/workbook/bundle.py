"""One archive of runs for others: what they left, their rows of the tables, cards, and how to cite; loads no torch."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hardlab import files
from hardlab.analysis import schema
from hardlab.errors import HardlabError
from hardlab.workbook import archive, citation, model_card

Content = Path | bytes  # of a file in the archive: one that is there, or one made for it
SUMS = "SHA256SUMS"
_README = """# Runs of hardlab

{runs}

| Here | What it is |
|---|---|
| `runs/<run>/` | manifest, log, results, learning curves, view log, snapshots{weights} |
| `cards/<run>.md` | data, recipe, results over seeds, claims, limits |
| `data/` | the rows of these runs in the tables of the figures, and their manifests |
| `CITATION.txt` | how to cite hardlab and the papers |
| `SHA256SUMS` | `sha256sum -c SHA256SUMS` checks the rest |

With hardlab installed: `hardlab runs list --runs runs`, `hardlab explore runs/<run>`,
`hardlab figures --all --data data --out figures`. A run's manifest holds its whole configuration, the commit and
the versions.
"""


def contents(runs: Sequence[Path], data_dir: Path, *, weights: bool = False) -> dict[str, Content]:
    """What the archive of these runs' folders holds: name -> file, or bytes made here; ``SHA256SUMS`` is the last.

    data_dir: the collected tables; where there are none, none are packed. weights: pack the newest checkpoint too.
    HardlabError for a run that is damaged or given twice.
    """
    names = [path.name for path in runs]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise HardlabError(f"The run {twice} is given twice.")
    packed: dict[str, Content] = {}
    for path in runs:
        files.read_manifest(path / "manifest.json", need=("id", "config", "state", "data"))
        for unit in archive.units(path.parent, path / "logs", [path.name]):
            packed |= {name: file for file, name in unit.files}
        if weights and (checkpoints := sorted((path / "checkpoints").glob("step-*.pt"))):
            packed[f"runs/{path.name}/checkpoints/{checkpoints[-1].name}"] = checkpoints[-1]
        packed[f"cards/{path.name}.md"] = model_card.card(path, data_dir).encode()
    packed |= _rows(data_dir, set(names))
    packed["CITATION.txt"] = citation.text().encode()
    listed = "\n".join(f"- {name}" for name in names)
    packed["README.md"] = _README.format(runs=listed, weights=", the last checkpoint" if weights else "").encode()
    return dict(sorted(packed.items())) | {SUMS: b""}


def write(out: Path, named: Mapping[str, Content]) -> None:
    """Write the archive (tar, gzip) atomically; the same files give the same bytes."""
    sink = io.BytesIO()
    sums: list[tuple[str, str]] = []
    with gzip.GzipFile(fileobj=sink, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w|") as tar:
        for name, content in named.items():
            data = content if isinstance(content, bytes) else files.content(content)
            if name == SUMS:
                data = "".join(f"{digest}  {other}\n" for digest, other in sums).encode()
            sums.append((hashlib.sha256(data).hexdigest(), name))
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    files.make_folder(out.parent)
    files.write_atomic(out, sink.getvalue())


def _rows(data_dir: Path, runs: set[str]) -> dict[str, Content]:
    """The tables of a folder with the rows of these runs alone, and their manifests; nothing for tables without any."""
    tables: dict[str, Content] = {}
    named = set(runs)  # also by rows that combine several runs
    for path in sorted(data_dir.glob("*.csv"), key=lambda path: (path.stem == schema.RUNS, path)):
        with open(path, newline="", encoding="utf-8") as f, files.as_expected(path):
            rows = csv.DictReader(f)
            if "run" not in (rows.fieldnames or ()):
                continue
            wanted = named if path.stem == schema.RUNS else runs
            own = [row for row in rows if wanted & set(re.split(r"[\s,;]+", row["run"] or ""))]
            named.update(name for row in own for name in row["run"].split())
            if own:
                sink = io.StringIO()
                writer = csv.DictWriter(sink, list(own[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(own)
                tables[f"data/{path.name}"] = sink.getvalue().encode()
    lines = [m for m in files.read_lines(data_dir / "manifests.jsonl", appended=False) if m.get("id") in runs]
    if lines:
        text = "".join(json.dumps(m, ensure_ascii=False) + "\n" for m in lines)
        tables["data/manifests.jsonl"] = text.encode()
    return tables
