"""How to cite hardlab and the papers that it reproduces, as text from ``CITATION.cff``; loads nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardlab.files import as_expected, read_yaml

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "CITATION.cff"  # a wheel has a copy there
FILE = _INSTALLED if _INSTALLED.exists() else _PACKAGE.parent / "CITATION.cff"


def text(path: Path = FILE) -> str:
    """The software on the first line, then each of its references on a line; HardlabError for a damaged file."""
    about = read_yaml(path)
    with as_expected(path):
        software = f"{_authors(about)}. {about['title']} Version {about['version']}, {about['license']}."
        papers = [_reference(entry) for entry in about["references"]]
    return "\n".join([software, *papers]) + "\n"


def _reference(entry: Mapping[str, Any]) -> str:
    place = entry.get("journal") or entry.get("collection-title") or ""
    pages = f", {entry['start']}-{entry['end']}" if "start" in entry else ""
    link = f" {entry['url']}" if "url" in entry else ""
    return f"{_authors(entry)} ({entry['year']}). {entry['title']}. {place}{pages}.{link}"


def _authors(entry: Mapping[str, Any]) -> str:
    names = [a.get("name") or f"{a['given-names']} {a['family-names']}" for a in entry["authors"]]
    return ", ".join(names)
