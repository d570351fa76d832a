"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from hardlab.errors import HardlabError


def make_folder(path: Path) -> None:
    """``path`` is a folder, with those above it; ``HardlabError`` where none can be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise HardlabError(f"'{path}' cannot be made a folder ({e.strerror}); name another for the output.") from e


def write_atomic(path: Path, content: bytes) -> None:
    """``path`` holds ``content`` or what it held before, whatever happens meanwhile."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")  # nobody else's to remove
    try:
        with open(scratch, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(scratch, path)
    except OSError as e:
        raise HardlabError(f"{path} could not be written ({e.strerror}); what was there before is intact.") from e
    finally:
        scratch.unlink(missing_ok=True)
