"""The runner's child process: papermill, with atomic writes and further tries if a kernel does not start.

It imports nothing of hardlab, so that a notebook starts a second earlier.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

import papermill
import zmq
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import papermill_io

STARTS = 3


class _Whole:
    """Replaces papermill's writer, which truncates and rewrites in place, by one that writes atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str, _: str) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, self.path)

    def pretty_path(self, path: str) -> str:
        return path


def _end_with(parent: int) -> None:
    """End this process if its parent is killed; the kernel, which ipykernel watches, then ends with this process."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(scratch: Path) -> int:
    """Run ``in.ipynb`` of the scratch folder as ``spec.json`` says, and write ``out.ipynb``."""
    spec = json.loads((scratch / "spec.json").read_text())
    threading.Thread(target=_end_with, args=(spec["parent"],), daemon=True).start()
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    # relative names: papermill expands braces in the paths that it is given
    os.chdir(scratch)
    papermill_io.register("out.ipynb", _Whole(scratch / "out.ipynb"))
    for attempt in range(1, STARTS + 1):
        try:
            papermill.execute_notebook(
                "in.ipynb",
                "out.ipynb",
                spec["parameters"],
                kernel_name="python3",
                language="python",
                cwd=spec["cwd"],
                progress_bar=False,
                log_output=True,
            )
            return 0
        except PapermillExecutionError as e:
            logging.error("%s: %s", e.ename, e.evalue)
            return 1
        except DeadKernelError as e:
            logging.error("%s", e)
            return 1
        except (RuntimeError, zmq.ZMQError) as e:
            # several kernels that start at once can pick the same port (papermill#511); nothing ran yet
            logging.error("The kernel did not start (try %d of %d): %s", attempt, STARTS, e)
            time.sleep(attempt)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
