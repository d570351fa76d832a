"""The files that rows of results are kept in: each measurement once, the file whole or as it was."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from hardlab.files import DamagedFile, read_lines, regular, write_atomic
from hardlab.types import HardlabError

KEY = ("protocol", "features", "metric", "options", "data", "split", "seed", "n_train")
CURVE_KEY = (*KEY, "step", "classifier_epoch")  # of ``curves.jsonl``


def append_rows(path: Path | str, rows: Iterable[Mapping[str, Any]], key: Sequence[str] = KEY) -> None:
    """Add rows to a ``results.jsonl``; an earlier row that measured the same thing (equal in ``key``) gives way.

    The file is replaced as a whole, so a reader sees the old rows or the new; of two processes that add at once the
    second waits. HardlabError where the file cannot be written, holds something else, or a value is not finite.
    """
    path = Path(path)
    new = [dict(row) for row in rows]
    for row in new:
        if not math.isfinite(row["value"]):
            raise HardlabError(f"{row['protocol']}, {row['metric']}: {row['value']} is no result; nothing was written.")
    with _locked(path):
        try:
            kept = {_key(row, key): row for row in read_lines(path, appended=False)}
        except DamagedFile as e:
            raise HardlabError(f"{e} Repair or remove that line; nothing was written.") from e
        for row in new:
            kept.pop(_key(row, key), None)  # so that the replacement stands last
            kept[_key(row, key)] = row
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept.values()).encode())


def _key(row: Mapping[str, Any], key: Sequence[str]) -> str:
    return json.dumps([row.get(column) for column in key], sort_keys=True)


def _locked(path: Path) -> IO[str]:
    """``path`` opened for reading, made where it is missing, and locked until it is closed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(path, "a+", encoding="utf-8", opener=regular)  # noqa: SIM115  the caller closes it
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.seek(0)
                return file
            file.close()  # whoever held the lock has put a new file in its place
    except OSError as e:
        raise HardlabError(f"{path} cannot be opened for writing ({e.strerror}).") from e
