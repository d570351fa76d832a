"""Atomic writing of files, and reading that reports a damaged file in one sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardlab.errors import HardlabError

if TYPE_CHECKING:
    import numpy as np

TEXT, NUMBER, FINITE, WHOLE, FLAG, TABLE, NUMBERS = (
    "a text",
    "a number",
    "a finite number",
    "a whole number",
    "true or false",
    "a table",
    "numbers",
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
RUN = re.compile(r".+-s\d+-[0-9a-f]{10}")  # the name of a run's folder
_LARGEST = 2**63  # the limit of integer columns
_MAYBE = " or nothing"
_REST = "*"  # the kind of all other values
Kinds = Mapping[str, str]
SNAPSHOT = "-" + 8 * "[0-9]" + ".npz"  # the end of a snapshot's name, for `glob`
SEALED = ("views", "crops", "snapshots")  # the folders of a run whose files its manifest knows by their digests
STATES = ("running", "done", "stopped", "failed")
MANIFEST: Kinds = (
    dict.fromkeys(("id", "config_hash", "commit", "python", "device", "precision", "started", "state"), TEXT)
    | dict.fromkeys(("ended", "parent", "error", "cuda", "driver", "backend"), TEXT + _MAYBE)
    | dict.fromkeys(("threads", "world_size", "seed", "epochs_done", "steps_done"), WHOLE)
    | dict.fromkeys(("images_per_s", "peak_memory_mb"), NUMBER)
    | dict.fromkeys(("config", "versions", "data", "files"), TABLE)
    | {"dirty": FLAG, "parameters": NUMBERS}
)
_DATA: Kinds = {"name": TEXT, "split": TEXT, "digest": TEXT, "count": WHOLE, "test_digest": TEXT}
_CONFIG: Kinds = (
    dict.fromkeys(("recipe", "rung", "precision"), TEXT)
    | dict.fromkeys(("seed", "epochs", "batch_size"), WHOLE)
    | dict.fromkeys(("data", "method", "backbone"), TABLE)
)
_NAMED: Kinds = {"name": TEXT}
_MEASURED: Kinds = (
    dict.fromkeys(("protocol", "metric", "features", "data", "split", "run", "recipe", "rung", "precision"), TEXT)
    | dict.fromkeys(("seed", "n_train", "n_test", "step"), WHOLE)
    | dict.fromkeys(("value", "cost_s", "epoch", "classifier_epoch"), FINITE)
    | {"options": TABLE, "images": TABLE}
)
_LOGGED: Kinds = (
    dict.fromkeys(("kind", "rule", "sentence", "run"), TEXT)
    | dict.fromkeys(("step", "epoch"), WHOLE)
    | dict.fromkeys(("loss", "images_per_s", "peak_memory_mb", "knn"), NUMBER)
    | dict.fromkeys(("terms", "lr", "seconds"), NUMBERS)
    | {_REST: NUMBER}  # the numbers that a method or a strategy logs
)
_ROW = ("protocol", "metric", "value", "features", "data", "split")
_LINES: Mapping[str, tuple[Kinds, Mapping[str | None, tuple[str, ...]]]] = {
    # the kinds of a line's values, and the values that each ``kind`` of line must have
    "metrics.jsonl": (
        _LOGGED,
        {
            "step": ("step", "epoch", "loss"),
            "epoch": ("step", "epoch", "loss", "terms", "seconds"),
            "health": ("step", "epoch", "rule", "sentence"),
        },
    ),
    "results.jsonl": (_MEASURED, {None: _ROW}),
    "curves.jsonl": (_MEASURED, {None: _ROW}),
}


def make_folder(path: Path) -> None:
    """Make the folder ``path`` and those above it; ``HardlabError`` if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise HardlabError(f"'{path}' cannot be created ({e.strerror}); choose another output folder.") from e


def check_folder(path: Path) -> None:
    """Refuse a path that cannot become a writable folder, without making it. Raises HardlabError."""
    parent = path.absolute()
    try:
        while True:
            try:
                os.lstat(parent)  # a broken link exists too, and a name may be too long
                break
            except (FileNotFoundError, NotADirectoryError):
                parent = parent.parent
        with tempfile.TemporaryFile(dir=parent):  # in /proc a privileged user has all rights but cannot write
            pass
    except OSError as e:
        raise HardlabError(f"'{path}' cannot be created ({e.strerror}: {parent}); choose another output folder.") from e


def regular(path: str | os.PathLike[str], flags: int) -> int:
    """An ``opener`` for ``open`` that raises OSError for a pipe or a device, which a reader would wait for."""
    handle = os.open(path, flags | os.O_NONBLOCK, 0o666)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, not a file", os.fspath(path))


def content(path: Path) -> bytes:
    """The bytes of a regular file; OSError for anything else."""
    with open(path, "rb", opener=regular) as f:
        return f.read()


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically: after any failure the file has its old content."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")  # unique to this thread
    try:
        with open(scratch, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(scratch, path)
    except OSError as e:
        raise HardlabError(f"{path} could not be written ({e.strerror}); what was there before is intact.") from e
    finally:
        scratch.unlink(missing_ok=True)


class DamagedFile(HardlabError):
    """A file does not have the expected content."""


def damaged(path: Path | str, why: Exception | str) -> DamagedFile:
    """The error for a file without the expected content. why: the reason, or an exception."""
    if isinstance(why, Exception):
        message = (str(why).strip().splitlines() or [""])[0].rstrip(".")
        if len(message) > 300:
            message = f"{message[:150]} ... {message[-140:]}"
        why = message if isinstance(why, HardlabError) else f"{type(why).__name__}: {message}".rstrip(": ")
    return DamagedFile(f"'{path}' cannot be read, it is damaged or not what it should be ({why}).")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises HardlabError, which names the file."""
    try:
        return _parsed(content(path))
    except (OSError, ValueError, RecursionError) as e:
        raise damaged(path, e) from e


def _parsed(content: bytes) -> Any:
    """Parse JSON in UTF-8. Raises ValueError, also for half of a surrogate pair, which no table can hold."""
    text = content.decode()
    value = json.loads(text)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def read_manifest(path: Path, need: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a run's manifest and check the kinds of its values. need: keys that it must have.

    Raises HardlabError, which names the file.
    """
    about = checked_manifest(read_json(path), path, need)
    folder, run = path.absolute().parent.name, about.get("id", "")
    if RUN.fullmatch(folder) and run and run != folder:  # a folder may be renamed, but not to another run's name
        raise damaged(path, f"it is that of {run}")
    return about


def checked_manifest(about: Any, path: Path, need: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return ``about`` if it is a manifest, else raise HardlabError. path: the file that it was read from."""
    fault = _fault(about, MANIFEST, need) or _fault(about.get("data", {}), _DATA)
    if not fault and (settings := about.get("config")) is not None:
        fault = _fault(settings, _CONFIG)
        fault = fault or next(filter(None, (_fault(settings.get(k, {}), _NAMED) for k in ("data", "method"))), "")
        fault = fault and f"of its config, {fault}"
    if fault:
        raise damaged(path, fault)
    if about.get("state", STATES[0]) not in STATES:
        raise damaged(path, f"state is '{about['state']}', not {', '.join(STATES)}")
    if about.get("precision", "fp32") not in ("fp32", "bf16"):
        raise damaged(path, f"precision is '{about['precision']}', not fp32 or bf16")
    manifest: dict[str, Any] = about
    return manifest


def read_lines(path: Path, *, appended: bool = True) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, none if the file is missing; the name of a run's file says what to check.

    appended: ignore a last line without a line end, which a killed process leaves. HardlabError names a damaged line.
    """
    try:
        written = content(path)
    except FileNotFoundError:
        return []
    except OSError as e:
        raise damaged(path, e) from e
    complete = written[: written.rfind(b"\n") + 1] if appended else written
    return [read_line(line, path, number) for number, line in enumerate(complete.splitlines(), 1)]


def of_run(rows: list[dict[str, Any]], run: str, path: Path) -> list[dict[str, Any]]:
    """The rows of a run's file; HardlabError for a row that names another run."""
    for number, row in enumerate(rows, 1):
        if row.get("run", run) != run:
            raise damaged(path, f"line {number} is of the run {row['run']}")
    return rows


def read_own_lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """As ``read_lines`` of a file of a run; HardlabError if it is another run's, or not the log that the run wrote.

    What the manifest does not say, as in runs of an earlier version, is not checked.
    """
    rows = read_lines(folder / name)
    try:
        about = _parsed(content(folder / "manifest.json"))
        own, done = str(about["id"]), about.get("state") == "done"
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return rows
    if done and name == "metrics.jsonl":
        check_seal(folder / name)
    return of_run(rows, own, folder / name)


def seal(written: bytes) -> str:
    """What a manifest keeps of each file of its run: 16 hex digits of the SHA-256."""
    return hashlib.sha256(written).hexdigest()[:16]


def check_seal(path: Path) -> None:
    """Raise HardlabError if a file of a run is not the one that the run wrote, where its manifest knows the file."""
    folder = path.parent if path.parent.name not in SEALED else path.parent.parent
    try:
        kept = _parsed(content(folder / "manifest.json"))["files"][path.relative_to(folder).as_posix()]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return  # of an earlier version
    if path.exists() and kept != seal(content(path)):
        raise damaged(path, "the run wrote another one, of another digest: put that back")


def read_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """Parse a line of a JSON-lines file and check it by the name of ``path``; HardlabError names a damaged line."""
    kinds, needs = _LINES.get(path.name, ({}, {}))
    try:
        row = _parsed(line)
    except (ValueError, RecursionError) as e:
        raise DamagedFile(f"Line {number} of '{path}' is not JSON: {type(e).__name__}: {e}.") from e
    if fault := _fault(row, kinds) or _lack(row, needs):
        raise DamagedFile(f"Line {number} of '{path}' is damaged: {fault}.")
    checked: dict[str, Any] = row
    return checked


def _fault(row: Any, kinds: Kinds, need: Iterable[str] = ()) -> str:
    """A description of what is wrong with an object of these kinds, or "". need: keys that it must have."""
    if not isinstance(row, dict):
        return f"{_short(row)} is no table of names and values"
    if lack := _missing(row, need):
        return lack
    for key, value in row.items():
        kind = kinds.get(key) or kinds.get(_REST)
        if kind and not _is(value, kind):
            return f"{key} is {_short(value)}, not {kind}"
        if isinstance(value, int) and abs(value) >= _LARGEST:
            return f"{key} is {_short(value)}, too large a number"
    return ""


def _lack(row: Mapping[str, Any], needs: Mapping[str | None, Iterable[str]]) -> str:
    """A description of what a line of its kind lacks, or "". needs: kind -> the keys that it must have."""
    kind = row.get("kind")
    if not needs or kind in needs:
        return _missing(row, needs[kind] if needs else ())
    return _missing(row, ["kind"]) or f"kind is {_short(kind)}, not {', '.join(map(str, needs))}"


def _missing(row: Mapping[str, Any], need: Iterable[str]) -> str:
    return next((f"'{key}' is missing" for key in need if key not in row), "")


def _is(value: Any, kind: str) -> bool:
    if kind.endswith(_MAYBE):
        return value is None or _is(value, kind.removesuffix(_MAYBE))
    if kind == NUMBERS:
        return isinstance(value, dict) and all(_is(v, NUMBER) for v in value.values())
    if isinstance(value, bool):
        return kind == FLAG
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return False
    if kind == FINITE:
        return _is(value, NUMBER) and math.isfinite(value)
    types: dict[str, Any] = {TEXT: str, NUMBER: int | float, WHOLE: int, TABLE: dict}
    return kind in types and isinstance(value, types[kind])


def numbers(value: Any) -> bool:
    """Whether a value is a table of names and numbers."""
    return _is(value, NUMBERS)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises HardlabError, which names the file."""
    import yaml

    try:
        return yaml.load(content(path).decode(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        if mark is not None:
            raise damaged(path, f"line {mark.line + 1}: {getattr(e, 'problem', e)}") from e
        raise damaged(path, e) from e


@contextmanager
def as_expected(*paths: Path) -> Iterator[None]:
    """Turn errors that unexpected content of the files ``paths`` causes inside into a HardlabError that names them."""
    try:
        yield
    except HardlabError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as e:
        if len(paths) == 1:
            raise damaged(paths[0], e) from e
        names = ", ".join(map(str, paths))
        raise DamagedFile(f"One of {names} is not what it should be ({e!r}).") from e


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file, which verifies their checksums. Raises HardlabError, which names the file."""
    import numpy as np

    if path.parent.name in SEALED:
        check_seal(path)
    try:
        with open(path, "rb", opener=regular) as f, np.load(f, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as e:  # zipfile, zlib and numpy raise nearly anything for foreign bytes
        raise damaged(path, e) from e
