"""Files of results: each measurement is stored once, and files are replaced atomically."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from hardlab.files import DamagedFile, read_lines, regular, write_atomic
from hardlab.types import HardlabError

KEY = ("protocol", "features", "metric", "options", "data", "split", "seed", "n_train")
CURVE_KEY = (*KEY, "step", "classifier_epoch")  # the key of ``curves.jsonl``


def append_rows(path: Path | str, rows: Iterable[Mapping[str, Any]], key: Sequence[str] = KEY) -> None:
    """Add rows to a ``results.jsonl``; a row replaces an earlier one with an equal ``key``.

    The file is replaced atomically, and of two processes that add rows at once the second waits. Raises HardlabError if
    the file cannot be written, holds something else, or a value is not finite.
    """
    path = Path(path)
    new = [dict(row) for row in rows]
    for row in new:
        if not math.isfinite(row["value"]):
            raise HardlabError(f"{row['protocol']}, {row['metric']}: {row['value']} is no result; nothing was written.")
    with _locked(path):
        try:
            rows_by_key = {_key(row, key): row for row in read_lines(path, appended=False)}
        except DamagedFile as e:
            raise HardlabError(f"{e} Repair or remove that line; nothing was written.") from e
        for row in new:
            rows_by_key.pop(_key(row, key), None)  # so that the new row comes last
            rows_by_key[_key(row, key)] = row
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows_by_key.values()).encode())


def drop_rows(path: Path | str, which: Callable[[Mapping[str, Any]], bool]) -> None:
    """Remove the rows for which ``which`` is true."""
    path = Path(path)
    with _locked(path):
        rows = [row for row in read_lines(path, appended=False) if not which(row)]
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _key(row: Mapping[str, Any], key: Sequence[str]) -> str:
    return json.dumps([row.get(column) for column in key], sort_keys=True)


def _locked(path: Path) -> IO[str]:
    """Open ``path`` for reading, create it if it is missing, and lock it until it is closed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(path, "a+", encoding="utf-8", opener=regular)  # noqa: SIM115  the caller closes it
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.seek(0)
                return file
            file.close()  # the last holder of the lock has replaced the file
    except OSError as e:
        raise HardlabError(f"{path} cannot be opened for writing ({e.strerror}).") from e
