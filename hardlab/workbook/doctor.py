"""Examines this machine: what it has, what hardlab can use, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from hardlab import build, machine
from hardlab.data import base

_COMPILERS = ("c++", "g++", "clang++")


def examine() -> dict[str, Any]:
    """Facts about machine, packages and data, as plain values."""
    root = base.data_root()
    precision, why = machine.choose(build.device())
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "precision_why": why,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "compiler": next((path for name in _COMPILERS if (path := shutil.which(name))), None),
        "data_root": str(root),
        "data_present": sorted(p.name for p in root.iterdir() if p.name[0] != ".") if root.is_dir() else [],
        "offline": bool(os.environ.get("HARDLAB_OFFLINE")),
        "free_disk_gb": round(shutil.disk_usage(_existing(root)).free / 1e9, 1),
        "packages": _packages(),
        "fanova": importlib.util.find_spec("fanova") is not None,
    }


def healthy(facts: dict[str, Any]) -> bool:
    """Whether every required package is installed in a version that hardlab accepts."""
    return all(p["ok"] for p in facts["packages"].values())


def describe(facts: dict[str, Any]) -> str:
    """The facts as text."""
    bad = [
        f"{name} {p['installed'] or 'missing'} (needs {p['needs']})"
        for name, p in facts["packages"].items()
        if not p["ok"]
    ]
    lines = {
        "python": f"{facts['python']} on {facts['system']}",
        "cores": f"{facts['cores']}, torch uses {facts['threads']} threads",
        "gpu": facts["gpu"] or "none",
        "precision": f"runs take {facts['precision']}: {facts['precision_why']}",
        "packages": "all there" if not bad else "; ".join(bad),
        "fanova": "installed (its licence allows non-commercial use only)"
        if facts["fanova"]
        else "not installed (it needs a C++ compiler to build)",
        "compiler": facts["compiler"] or "none",
        "data": f"{facts['data_root']}: {', '.join(facts['data_present']) or 'nothing; built-in sets need none'}",
        "downloads": "off (HARDLAB_OFFLINE)" if facts["offline"] else "on",
        "disk": f"{facts['free_disk_gb']} GB free",
    }
    return "\n".join(f"{name:10}{text}" for name, text in lines.items())


def matrix() -> dict[str, dict[str, str | None]]:
    """Method -> strategy -> None if they work together, else the reason, as the code itself decides."""
    pairs: dict[str, dict[str, str | None]] = {}
    for (method, strategy), reason in build.matrix().items():
        pairs.setdefault(method, {})[strategy] = reason
    return pairs


def describe_matrix(pairs: dict[str, dict[str, str | None]]) -> str:
    """The matrix as a table with a mark for each pair, and the reasons below it."""
    strategies = list(next(iter(pairs.values())))
    lines = [f"{'':14}" + "".join(f"{s:>14}" for s in strategies)]
    reasons = []
    for method, row in pairs.items():
        marks = ["yes" if row[s] is None else "option" if "; set hard." in str(row[s]) else "no" for s in strategies]
        lines.append(f"{method:14}" + "".join(f"{mark:>14}" for mark in marks))
        reasons += [f"{method} with {s}: {row[s]}" for s in strategies if row[s] is not None]
    return "\n".join([*lines, "", *reasons]).rstrip()


def _packages() -> dict[str, dict[str, Any]]:
    """Required packages by name: the installed version, the required one, and whether they agree."""
    packages = {}
    for text in importlib.metadata.requires("hardlab") or []:
        need = Requirement(text)
        if need.marker is not None:  # an extra
            continue
        try:
            version: str | None = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        ok = version is not None and need.specifier.contains(version, prereleases=True)
        packages[need.name] = {"installed": version, "needs": str(need.specifier), "ok": ok}
    return packages


def _existing(path: Path) -> Path:
    """The nearest folder above ``path`` that exists."""
    return next(p for p in (path, *path.parents) if p.exists())
