"""One of two processes of a test: who waits how long for whom, and when all know that one was asked to stop.

`torchrun waiting.py FOLDER`: each writes what it saw to ``FOLDER/<rank>.json``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch

from hardlab import ranks

ranks._STEP, ranks._PATIENCE = timedelta(seconds=3), timedelta(seconds=120)


def late(seconds: float = 6) -> str:
    time.sleep(seconds)
    return "late"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ranks.joined(cuda=False) as at:
        any_of, answers = ranks.AnyOf(), []
        for i in range(6):
            time.sleep(0.05 * at.rank)  # one is always behind
            answers.append(any_of(at.rank == 1 and i >= 2))
            if answers[-1]:
                break
        seen = {"answers": answers, "first": ranks.from_first(late)}
        began = time.monotonic()
        try:
            if at.rank == 1:
                late()
            ranks.any_of(False)
        except RuntimeError as e:
            seen |= {"lost": ranks.lost(e), "after": time.monotonic() - began}
        (Path(sys.argv[1]) / f"{at.rank}.json").write_text(json.dumps(seen))
        os._exit(0)  # as after an error: a thread of gloo may still be in the exchange that was lost
