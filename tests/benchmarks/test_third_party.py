"""THIRD_PARTY.md against pyproject.toml, the lock and what is installed."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import third_party

ROWS = dict(re.findall(r"^\| ([a-z0-9-]+) \| (.+) \|$", third_party.FILE.read_text(encoding="utf-8"), re.M))


def test_every_direct_dependency_has_a_row_with_a_locked_version_and_the_extras_that_name_it() -> None:
    lock = (third_party.ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = {(canonicalize_name(r.name), next(iter(r.specifier)).version) for r in map(Requirement, re.findall(
        r"^[a-zA-Z0-9][^\\\n]*", lock, re.M))}  # fmt: skip
    assert ROWS.keys() == third_party.direct().keys()
    for name, row in ROWS.items():
        version, licence, extras = row.split(" | ")
        assert (name, version) in pins, f"{name} {version}: run `python -m benchmarks.third_party`"
        assert licence and extras == ", ".join(third_party.direct()[name])


@pytest.mark.parametrize("name", ROWS)
def test_the_licence_is_the_one_that_the_installed_package_states(name: str) -> None:
    version, licence, _ = ROWS[name].split(" | ")
    try:
        package = distribution(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if package.version != version:
        pytest.skip(f"{name} {package.version} is installed, and the file names the licence of {version}")
    stated = " ".join(
        [str(v) for key in ("License", "License-Expression", "Classifier") for v in package.metadata.get_all(key) or []]
    )
    assert all(part in " ".join(stated.split()) for part in licence.split(" or "))


def test_the_purposes_that_fanovas_licence_allows_are_told() -> None:
    assert "non-commercial" in ROWS["fanova"] and "non-commercial" in third_party.FILE.read_text().split("| Package")[0]
