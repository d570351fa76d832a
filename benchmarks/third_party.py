"""Writes THIRD_PARTY.md: the licence of every direct dependency, as its installed package states it.

Run ``python -m benchmarks.third_party`` after the lock has moved. A test compares the file with what is installed.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "THIRD_PARTY.md"
_OSI = "License :: OSI Approved :: "
_HEAD = """# Third-party software

hardlab is under the Apache License 2.0 and contains no code of these packages; `pip` or `make install` fetches them.
The licences are those that the packages state themselves. **fanova** may be used for academic and other non-commercial
purposes only: it is the extra `fanova`, which nothing else needs, and `hardlab.analysis.importance` calls it only with
`backend="fanova"`. SWIG is under the GPL; it builds pyrfr and is no part of it.

`python -m benchmarks.third_party` writes this table from the installed packages.

| Package | Version | Licence | Needed for |
|---|---|---|---|
"""


def direct() -> dict[str, list[str]]:
    """The direct dependencies of ``pyproject.toml``: canonical name -> the extras that name it, "core" for none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, list[str]] = {}
    for extra, texts in {"core": project["dependencies"], **project["optional-dependencies"]}.items():
        for name in (Requirement(text).name for text in texts):
            if name != "hardlab":
                found.setdefault(canonicalize_name(name), []).append(extra)
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """What a package says of its licence: an SPDX expression, else its classifiers, else its own words."""
    about = package.metadata
    if expression := about.get_all("License-Expression"):
        return expression[0]
    named = [c.removeprefix(_OSI) for c in about.get_all("Classifier") or [] if c.startswith(_OSI)]
    words = " ".join(" ".join(about.get_all("License") or []).split())
    return " or ".join(named) or re.split(r"(?<=\.) ", words)[0]


def table() -> str:
    """The rows of the file; raises ``PackageNotFoundError`` for a dependency that is not installed."""
    rows = []
    for name, extras in direct().items():
        package = distribution(name)
        rows.append(f"| {name} | {package.version} | {licence(package)} | {', '.join(extras)} |\n")
    return "".join(rows)


def main() -> None:
    try:
        FILE.write_text(_HEAD + table(), encoding="utf-8")
    except PackageNotFoundError as e:
        raise SystemExit(f"{e} Install all extras first: `make install` with a C++ compiler.") from e
    print(FILE)


if __name__ == "__main__":
    main()
