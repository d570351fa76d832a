"""A strategy for tests, loaded by ``--code``: it kills a process of the run, once for each step that it is given."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hardlab import ranks
from hardlab.hard.base import Hard
from hardlab.methods.base import Step


class Dying(Hard):
    """Ends the last process by SIGKILL after these steps, and notes in a folder that it has.

    folder: where the notes are. first, second: the steps.
    """

    def __init__(self, folder: str = "", first: int = 0, second: int = 0) -> None:
        super().__init__()
        self.folder, self.at = folder, (first, second)

    def after_step(self, step: Step) -> None:
        note = Path(self.folder) / f"died-{step.at.step}"
        if step.at.step in self.at and ranks.rank() == ranks.size() - 1 > 0 and not note.exists():
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
