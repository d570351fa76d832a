"""The runner's child process."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest
from made_notebooks import notebook

from hardlab.workbook import execute


@pytest.mark.slow
def test_a_kernel_whose_port_is_taken_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (tmp_path / "clash.py").write_text(
        textwrap.dedent(f"""
        import os, pathlib, sys
        tried = pathlib.Path({str(tmp_path / "tried")!r})
        if not tried.exists():
            tried.write_text("")
            sys.exit("zmq.error.ZMQError: Address already in use")
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *sys.argv[1:]])
        """)
    )
    argv = [sys.executable, str(tmp_path / "clash.py"), "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    source = notebook(tmp_path / "n.ipynb", "print(1)")
    result = execute.execute(source, out_dir=tmp_path / "out", report=False)
    assert (tmp_path / "tried").exists() and result.state == "done"
    assert "try 1" in result.log.read_text()
