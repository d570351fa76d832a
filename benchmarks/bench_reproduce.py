"""``make reproduce`` in a fresh clone with a fresh environment, set-up included: minutes, by kind of processor.

Also records ``hardlab/workbook/costs.json``, from which the plan's minutes are estimated.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from hardlab import checkpoint, machine
from hardlab.types import HardlabError
from hardlab.workbook import costs, plan, progress

ROOT = Path(__file__).resolve().parents[1]
EMULATION = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "HARDLAB_BF16")
TARGETS = {"fp32": 12.0, "bf16": 8.0}  # minutes on two cores


def run(cores: int = 2) -> list[dict[str, Any]]:
    """Rows of minutes: the whole, and of it the set-up, for the processor at hand or the one that is emulated."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "hardlab"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        start = time.monotonic()
        done = subprocess.run(["make", "reproduce", f"CORES={cores}"], cwd=clone, capture_output=True, text=True)
        minutes = (time.monotonic() - start) / 60
        if done.returncode:
            raise HardlabError(f"`make reproduce` ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
        times = json.loads((clone / "out" / "smoke" / "times.json").read_text())
        rates = costs.Rates(**times["rates"])
        trained = progress.seconds_per_step(clone / "out" / "smoke" / "runs")
        book = costs.record(plan.steps("smoke"), times["took"], trained, rates)
        checkpoint.write_atomic(costs.RECORDED, (json.dumps(book, indent=1) + "\n").encode())
    given = ", ".join(f"{name}={os.environ[name]}" for name in EMULATION if name in os.environ)
    kind = f"{machine.processor()}, {rates.precision}, {cores} at a time" + (f", {given}" if given else "")
    target = TARGETS[rates.precision] if cores == 2 else None
    whole = {"name": f"make reproduce, {kind}", "value": round(minutes, 2), "unit": "min", "peer": None,
             "target": target, "ok": target is None or minutes <= target}  # fmt: skip
    setup = {"name": f"of it set-up, {kind}", "value": round(minutes - times["minutes"], 2), "unit": "min",
             "peer": None, "target": None, "ok": True}  # fmt: skip
    return [whole, setup]
