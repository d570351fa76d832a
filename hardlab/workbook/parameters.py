"""The parameters of a notebook: their declared types, and the conversion of values to them."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_origin

from hardlab import numbers, registry
from hardlab.errors import HardlabError

if TYPE_CHECKING:
    from nbformat import NotebookNode

# ranges of numbers by name; parameters may be declared with them as with int or float
_RANGES = {name: kind for name, kind in vars(numbers).items() if get_origin(kind) is Annotated}


class Parameter(NamedTuple):
    """A line of the cell tagged ``parameters``: its type, as written, and its default."""

    type: str
    default: Any


def schema(path: str | Path) -> dict[str, Parameter]:
    """The declared parameters of a notebook by name, read without running it.

    Raises ``HardlabError`` for several cells tagged ``parameters``, a line that is no assignment of a literal, and a
    type that is unknown or does not fit its default.
    """
    cells = _tagged(Path(path), "parameters")
    if len(cells) > 1:
        raise HardlabError(f"{path} has {len(cells)} cells tagged 'parameters'; one is allowed.")
    declared: dict[str, Parameter] = {}
    try:
        body = ast.parse(cells[0], type_comments=True).body if cells else []
    except SyntaxError as e:
        raise HardlabError(f"{path}: line {e.lineno} of the parameters cell is not valid Python: {e.msg}.") from None
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        target = node.target if isinstance(node, ast.AnnAssign) else target
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(target, ast.Name) or node.value is None:
            raise HardlabError(
                f"{path}: '{ast.unparse(node)}' in the parameters cell is not of the form name = literal."
            )
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise HardlabError(
                f"{path}: parameter {target.id} is '{ast.unparse(node.value)}', not a literal."
            ) from None
        comment = (node.type_comment or "") if isinstance(node, ast.Assign) else ""
        kind = comment.partition(" ")[0]  # the rest of the line is an explanation
        if isinstance(node, ast.AnnAssign):
            kind = ast.unparse(node.annotation)
        declared[target.id] = Parameter(kind or _kind_of(default), default)
        _fit(target.id, default, declared[target.id].type)
    return declared


def check(path: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Convert overrides, e.g. text from the command line, to their declared types.

    For a parameter of type ``path``, a relative path is relative to the working directory, not the notebook's folder.
    Raises ``HardlabError`` for an unknown name and for a value that does not fit.
    """
    declared = schema(path)
    typed = {}
    for name, value in overrides.items():
        if name not in declared:
            raise registry.unknown("parameter", name, declared, Path(path).name)
        typed[name] = _here(_fit(name, value, declared[name].type), declared[name].type)
    return typed


def split(texts: Iterable[str]) -> dict[str, str]:
    """``["seed=1", "recipe=simclr"]`` -> the overrides, still as text."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise HardlabError(f"'{text}' is not a parameter: write name=value, for example seed=1.")
        values[name.strip()] = value
    return values


def _kind_of(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _kinds(kind: str) -> list[ast.expr]:
    """The members of a union, e.g. of ``int|None``."""
    try:
        node: ast.expr = ast.parse(kind, mode="eval").body
    except SyntaxError:
        raise HardlabError(
            f"'{kind}' is not a parameter type; write for example int, list[str] or float|None."
        ) from None
    members = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        members.append(node.right)
        node = node.left
    return [node, *reversed(members)]


def _fit(name: str, value: Any, kind: str) -> Any:
    """Convert ``value`` to the first type of ``kind`` that it fits."""
    for member in _kinds(kind):
        with contextlib.suppress(ValueError, RecursionError, MemoryError):
            return _to(value, member)
    quoted = f"'{value}'" if isinstance(value, str) else repr(value)
    named = [word for word in re.findall(r"\w+", kind) if word in _RANGES]
    ranges = "".join(f"; {word} is {numbers.described(_RANGES[word])}" for word in named)
    raise HardlabError(f"Parameter {name} cannot be {quoted}: it is declared as {kind}{ranges}.")


def _to(value: Any, kind: ast.expr) -> Any:
    """Convert ``value`` to one type; ValueError if it does not fit. Text is read as on the command line."""
    written = ast.unparse(kind)
    text = value.strip() if isinstance(value, str) else None
    if written == "None":
        if value is None or (text is not None and text.lower() in ("none", "null")):
            return None
    elif written in ("str", "path"):
        # an empty path would be the notebook's own folder, and nobody means a folder called None
        if text is not None and (written == "str" or text.lower() not in ("", "none", "null")):
            return _plain(value)
    elif written == "bool":
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, bool):
            return value
        if text is not None and text.lower() in words:
            return words[text.lower()]
    elif written == "int":
        if text is not None or (isinstance(value, int) and not isinstance(value, bool)):
            return _plain(_number(value, int))
    elif written == "float":
        if text is not None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return _plain(_number(value, float))
    elif written in _RANGES:
        return numbers.adapter(_RANGES[written]).validate_python(value)  # whose error is a ValueError
    elif written == "list" or written.startswith("list["):
        item = kind.slice if isinstance(kind, ast.Subscript) else None
        if text is None:
            return _each(value, item)
        if text.startswith("["):
            try:
                return _each(_literal(text), item)
            except ValueError:  # [simclr, simsiam]
                if not text.endswith("]"):
                    raise
                text = text[1:-1]
        return _each(_words(text), item)
    elif written == "dict":
        table = _plain(_literal(text) if text is not None else value)
        if isinstance(table, dict):
            return table
    else:
        raise HardlabError(
            f"'{written}' is not a parameter type. Allowed: str, int, float, bool, path, dict, list, list[...], "
            f"None, {', '.join(_RANGES)}, and unions of them with |."
        )
    raise ValueError(value)


def _number(value: Any, kind: type[int] | type[float]) -> int | float:
    """A number, or text as a command line reads it: of other digits than 0 to 9 it spells none."""
    if isinstance(value, str) and not value.isascii():
        raise ValueError(value)
    number = numbers.spelled(value)
    if kind is int and isinstance(number, float) and not number.is_integer():
        raise ValueError(value)
    return kind(number)


def _each(items: Any, kind: ast.expr | None) -> list[Any]:
    if not isinstance(items, list | tuple):
        raise ValueError(items)
    return [_plain(i) if kind is None else _to(i, kind) for i in items]


def _plain(value: Any) -> Any:
    """Return a value that JSON, and so a notebook, can hold; ValueError for NaN, bytes, half a character, ..."""
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            raise ValueError(value)
        return {_plain(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError is a ValueError
        return value
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(value)


_OPENS = {"[": "]", "{": "}", "(": ")"}


def _words(text: str) -> list[str]:
    """Split text at commas, so that no shell needs quotes, but not at commas inside brackets or quotes."""
    words, closing, quote = [""], [], ""  # type: list[str], list[str], str
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign if not words[-1].strip() or words[-1].strip()[-1] in "=,[{(:" else ""  # not that of don't
        elif closing and sign == closing[-1]:
            closing.pop()
        elif sign in _OPENS:
            closing.append(_OPENS[sign])
        elif sign == "," and not closing:
            words.append("")
            continue
        words[-1] += sign
    return [word.strip() for word in words if word.strip()]


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (SyntaxError, TypeError) as e:  # of {[]: 1} a TypeError
            raise ValueError(text) from e


def _here(value: Any, kind: str) -> Any:
    if "path" not in kind:
        return value
    return (
        [_here(v, "path") for v in value]
        if isinstance(value, list)
        else value and os.path.abspath(os.path.expanduser(value))
    )


def _tagged(path: Path, tag: str) -> list[str]:
    """The source of the code cells with a tag.

    A notebook of format 4 is read as JSON; other files are left to nbformat, which takes two seconds to load.
    """
    try:
        nb = json.loads(path.read_text(encoding="utf-8"))
        if nb["nbformat"] != 4:
            raise ValueError
        return _sources(nb["cells"], tag)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return _sources(read(path).cells, tag)


def _sources(cells: Iterable[Mapping[str, Any]], tag: str) -> list[str]:
    tagged = [c for c in cells if c["cell_type"] == "code" and tag in c["metadata"].get("tags", [])]
    return ["".join(c["source"]) for c in tagged]


def read(path: Path) -> NotebookNode:
    """Read and validate a notebook. Raises HardlabError."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except OSError as e:
        raise HardlabError(f"The notebook '{path}' cannot be read ({e.strerror}).") from None
    except Exception as e:  # nbformat has no common base for what can be wrong in a file
        raise HardlabError(f"'{path}' is not a valid notebook: {str(e).splitlines()[0]}") from None
