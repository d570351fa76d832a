"""One of several processes of a test.

`torchrun resumed.py FOLDER stop` stops a run early, `torchrun resumed.py FOLDER go` takes it to its end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from hardlab import ranks, train
from hardlab.workbook import parallel

if __name__ == "__main__":
    torch.set_num_threads(1)
    run, folder = parallel.stateful(), Path(sys.argv[1])
    with ranks.joined(cuda=False), parallel.double_precision():
        if sys.argv[2] == "stop":
            parallel.stop_early(run, folder)
        else:
            train.train(run, folder, device="cpu", say=lambda line: None)
