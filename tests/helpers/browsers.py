"""Headless Chromium and JupyterLab for the tests that need them: on loopback, with folders and a token of their own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}  # which asks and downloads news
_WHOLE = {"windowingMode": "none"}  # cells out of sight stay in the page


def chromium() -> str | None:
    """The program of the installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Lab(NamedTuple):
    """A JupyterLab that runs."""

    url: str
    token: str

    def notebook(self, path: str) -> str:
        """The address of a notebook below its root folder, in a workspace without the tabs of others."""
        return f"{self.url}/lab/workspaces/{Path(path).stem}/tree/{path}?token={self.token}"


@contextmanager
def jupyterlab(root: Path, home: Path) -> Iterator[Lab]:
    """JupyterLab with the root folder ``root``, started by `hardlab lab`; its own files are in ``home``."""
    port, token = _free_port(), secrets.token_hex(16)
    settings = home / "settings" / "@jupyterlab" / "notebook-extension"
    for folder, name, content in (
        (home / "config" / "labconfig", "page_config.json", _QUIET),
        (settings, "tracker.jupyterlab-settings", _WHOLE),
    ):
        folder.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))
    env = os.environ | {
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
    }
    env.pop("MPLBACKEND", None)  # a kernel draws inline
    words = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--allow-root"]
    words += [f"--ServerApp.root_dir={root}", "--ServerApp.log_level=WARN", "--LabApp.extension_manager=readonly"]
    # a test run that is killed leaves no server behind
    words += ["--MappingKernelManager.cull_idle_timeout=600", "--ServerApp.shutdown_no_activity_timeout=600"]
    log = home / "jupyterlab.log"
    with open(log, "w") as sink:
        command = [sys.executable, "-c", "from hardlab.cli import main; main()", "lab", *words]
        server = subprocess.Popen(
            command, env=env, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    lab = Lab(f"http://127.0.0.1:{port}", token)
    try:
        _wait_for(lab, server, log)
        yield lab
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(lab: Lab, server: subprocess.Popen[Any], log: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{lab.url}/api/status?token={lab.token}", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")
