"""pyproject.toml, requirements.lock and environment.yml say the same, and the make targets do what they claim."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def floors() -> list[tuple[str, Requirement]]:
    """(extra, requirement) of every direct dependency; the core's extra is ''."""
    project = pyproject()["project"]
    named = {"": project["dependencies"], **project["optional-dependencies"]}
    parsed = [(extra, Requirement(text)) for extra, texts in named.items() for text in texts]
    return [(extra, r) for extra, r in parsed if r.name != "hardlab"]


@cache
def lock() -> dict[str, list[tuple[Requirement, int]]]:
    """Package -> its lines in the lock, each with the number of its hashes; more than one where Pythons differ."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    out: dict[str, list[tuple[Requirement, int]]] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        head, *rest = [line.rstrip(" \\") for line in block.splitlines() if not line.lstrip().startswith("#")]
        hashes = [line for line in rest if re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", line)]
        assert len(hashes) == len(rest), f"a line of the lock that is neither a package nor a hash, under {head}"
        requirement = Requirement(head)
        out.setdefault(canonicalize_name(requirement.name), []).append((requirement, len(hashes)))
    return out


def exact(requirement: Requirement) -> Version:
    (pin,) = requirement.specifier
    assert pin.operator == "==", f"{requirement} is not an exact version"
    return Version(pin.version)


def test_every_direct_dependency_is_locked_at_a_version_that_its_floor_allows() -> None:
    for extra, expected in floors():
        name = canonicalize_name(expected.name)
        assert name in lock(), f"{expected} of extra '{extra}' is not in requirements.lock: run `make lock`"
        for locked, _ in lock()[name]:
            assert expected.specifier.contains(exact(locked), prereleases=True), (
                f"{locked} breaks {expected}: run `make lock`"
            )


def test_every_locked_package_is_exact_and_has_hashes() -> None:
    assert len(lock()) > 100
    for entries in lock().values():
        for locked, hashes in entries:
            assert exact(locked)
            assert hashes >= 1, f"{locked} has no hash"


def test_exactly_one_line_of_the_lock_holds_for_a_direct_dependency_on_every_python() -> None:
    for python in ("3.11", "3.12", "3.13", "3.14"):
        for platform in ("linux", "darwin"):
            here = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
            here |= {"sys_platform": platform, "platform_machine": "arm64" if platform == "darwin" else "x86_64"}
            for _, expected in floors():
                lines = [r for r, _ in lock()[canonicalize_name(expected.name)]]
                fits = [r for r in lines if r.marker is None or r.marker.evaluate(here)]
                assert len(fits) == 1, f"{expected.name} on {python}, {platform}: {fits}"


def test_no_index_host_and_no_address_in_the_files_that_are_installed_from() -> None:
    for name in ("requirements.lock", "pyproject.toml", "environment.yml", "Makefile", ".ci/install", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        addresses = re.findall(r"\w+://\S+|--(?:extra-)?index-url|--find-links|\bfile:\S+", text)
        assert not addresses, f"{name} names {addresses}"


def test_a_package_has_the_same_floor_wherever_pyproject_names_it() -> None:
    specifiers: dict[str, SpecifierSet] = {}
    for extra, expected in floors():
        name = canonicalize_name(expected.name)
        assert expected.specifier == specifiers.setdefault(name, expected.specifier), f"{expected} of extra '{extra}'"
        assert any(s.operator in (">=", "==") for s in expected.specifier), f"{expected} has no floor"


def test_the_extra_named_all_holds_every_other_extra() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    (everything,) = [Requirement(text) for text in extras["all"]]
    assert everything.name == "hardlab"
    assert everything.extras == extras.keys() - {"all"}


def test_conda_gets_the_same_python_the_same_swig_and_everything_else_from_pyproject() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = {r.name: r.specifier for r in (Requirement(e) for e in entries if isinstance(e, str))}
    (pip,) = [e["pip"] for e in entries if isinstance(e, dict)]
    assert pip == ["-e .[all]"]
    assert conda["python"] == SpecifierSet(pyproject()["project"]["requires-python"])
    assert {"pip", "cxx-compiler", "swig"} <= conda.keys()
    direct = {canonicalize_name(expected.name) for _, expected in floors()}
    assert conda.keys() & direct <= {"swig"}, "a floor belongs into pyproject.toml and nowhere else"
    (swig,) = [Version(s.version) for _, r in floors() if r.name == "swig" for s in r.specifier]
    assert swig in conda["swig"]
    assert Version("4.2.0") not in conda["swig"], "pyrfr built with SWIG 4.2 fails at its first call"


def test_pyrfr_is_built_with_the_locked_swig() -> None:
    build = [Requirement(r) for r in pyproject()["tool"]["uv"]["extra-build-dependencies"]["pyrfr"]]
    (swig,) = [r for r in build if r.name == "swig"]
    assert [exact(r) for r, _ in lock()["swig"]] == [exact(swig)]


def test_torch_and_torchvision_are_bounded_on_both_sides() -> None:
    for name in ("torch", "torchvision"):
        (expected,) = [r for extra, r in floors() if r.name == name and extra == ""]
        assert {s.operator for s in expected.specifier} == {">=", "<"}


def test_the_version_is_the_same_in_the_package_and_in_the_citation() -> None:
    text = (ROOT / "hardlab" / "__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', text, re.M)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    cited = [reference["title"] for reference in citation["references"]]
    assert len(cited) == 6  # the five papers, and the later edition of one of them
    assert cited[1:3] == [
        "Hard View Selection for Contrastive Learning",
        "Beyond Random Augmentations: Pretraining with Hard Views",
    ]


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", text, re.M)
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make (\S+) +\S", shown, re.M) == phony.split()


def tools_only(folder: Path, *names: str) -> str:
    """A PATH that holds these commands and nothing else."""
    folder.mkdir()
    for name in names:
        program = shutil.which(name)
        assert program, name
        (folder / name).symlink_to(program)
    return str(folder)


INSTALLER_NEEDS = ("bash", "env", "dirname", "cat", "cksum", "head", "awk", "rm", "mkdir")
FAKE_PYTHON = """#!/usr/bin/env bash
# Stands in for the interpreter of the new .venv: notes how it and uv are called, installs nothing; asked with -c what
# it is, it answers RELEASE.
if [ "$1" = -c ]; then echo RELEASE; exit; fi
if [ "$1" = -m ] && [ "$2" = venv ]; then mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/uv; fi
echo "${0##*/} $*" >>calls
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what .ci/install reads, whose name has a space, and a Python that only takes notes."""
    folder = tmp_path / "a checkout"
    (folder / ".ci").mkdir(parents=True)
    for name in (".ci/install", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def install(checkout: Path, path: str, release: str = "3.11", **environment: str) -> subprocess.CompletedProcess[str]:
    fake = checkout.parent / "python-that-takes-notes"
    fake.write_text(FAKE_PYTHON.replace("RELEASE", release), encoding="utf-8")
    fake.chmod(0o755)
    settings = {"PATH": path, "HOME": os.environ.get("HOME", "/"), "PYTHON": str(fake), **environment}
    return subprocess.run([checkout / ".ci" / "install"], env=settings, capture_output=True, text=True, check=False)


def test_without_a_compiler_fanova_and_pyrfr_alone_are_left_out_with_one_warning(
    checkout: Path, tmp_path: Path
) -> None:
    path = tools_only(tmp_path / "bin", *INSTALLER_NEEDS, "cp")
    done = install(checkout, path)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "fanova" in done.stderr
    assert "warning" in done.stderr
    rest = (checkout / ".venv" / "rest.lock").read_text(encoding="utf-8")
    names = {canonicalize_name(n) for n in re.findall(r"^([A-Za-z0-9._-]+)==", rest, re.M)}
    assert lock().keys() - names == {"fanova", "pyrfr", "uv"}

    compiler = tmp_path / "bin" / "clang++"
    compiler.write_text("#!/bin/sh\n", encoding="utf-8")
    compiler.chmod(0o755)
    again = install(checkout, path)
    assert again.returncode == 0
    assert again.stderr == ""
    rest = (checkout / ".venv" / "rest.lock").read_text(encoding="utf-8")
    assert "\nfanova==" in rest
    assert "\npyrfr==" in rest


def test_a_compiler_named_by_cxx_that_does_not_exist_counts_as_none(checkout: Path, tmp_path: Path) -> None:
    path = tools_only(tmp_path / "bin", *INSTALLER_NEEDS, "cp")
    assert "fanova" in install(checkout, path, CXX="no-such-compiler").stderr
    assert install(checkout, path, CXX="cat -u").stderr == "", "CXX may carry arguments"


def test_every_download_is_checked_against_its_hash_and_a_second_install_does_nothing(
    checkout: Path, tmp_path: Path
) -> None:
    path = tools_only(tmp_path / "bin", *INSTALLER_NEEDS, "cp")
    assert install(checkout, path).returncode == 0
    calls = (checkout / "calls").read_text(encoding="utf-8").splitlines()
    downloads = [call for call in calls if " install " in call and "--editable" not in call]
    assert len(downloads) == 2, "uv by pip, the rest by uv"
    assert all("--require-hashes" in call for call in downloads)
    assert all("--build-constraints requirements.lock" in call for call in calls if call.startswith("uv "))

    assert install(checkout, path).returncode == 0
    assert (checkout / "calls").read_text(encoding="utf-8").splitlines() == calls
    with (checkout / "requirements.lock").open("a", encoding="utf-8") as file:
        file.write("# another lock\n")
    assert install(checkout, path).returncode == 0
    assert len((checkout / "calls").read_text(encoding="utf-8").splitlines()) > len(calls)


def test_another_python_that_is_asked_for_takes_the_place_of_the_one_in_venv(checkout: Path, tmp_path: Path) -> None:
    path = tools_only(tmp_path / "bin", *INSTALLER_NEEDS, "cp", "false")
    for release, made in ("3.11", 1), ("3.11", 1), ("3.13", 2), ("3.13", 2):
        assert install(checkout, path, release).returncode == 0
        calls = (checkout / "calls").read_text(encoding="utf-8").splitlines()
        assert sum(" -m venv " in call for call in calls) == made
    assert [call for call in calls if " -m venv " in call][-1].endswith("-m venv --clear .venv")
    unnamed = install(checkout, path, PYTHON="")  # whatever is there will do
    assert unnamed.returncode == 0 and (checkout / "calls").read_text(encoding="utf-8").splitlines() == calls


def test_a_python_that_is_too_old_is_refused_in_one_sentence(checkout: Path, tmp_path: Path) -> None:
    path = tools_only(tmp_path / "bin", *INSTALLER_NEEDS, "false")
    done = install(checkout, path, PYTHON="false")
    assert done.returncode == 1
    assert "Python 3.11" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_fanova_finds_the_input_that_matters_where_it_was_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyrfr", reason="fanova is installed only where there is a compiler")
    import fanova
    import numpy as np
    from ConfigSpace import ConfigurationSpace, UniformFloatHyperparameter

    monkeypatch.setattr(np, "float", float, raising=False)  # fanova 2.0.19 still asks for it
    inputs = np.random.default_rng(0).random((100, 2))
    space = ConfigurationSpace(seed=0)
    space.add([UniformFloatHyperparameter(name, 0, 1) for name in ("first", "second")])
    forest = fanova.fANOVA(inputs, np.sin(3 * inputs[:, 0]), config_space=space, n_trees=16, seed=1)
    share = [forest.quantify_importance((i,))[(i,)]["individual importance"] for i in (0, 1)]
    assert share[0] > 0.5
    assert 0 < share[1] < 0.25, "the other input is noise to the forest"


def test_the_code_is_formatted_and_free_of_lint() -> None:
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_types_are_right() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
