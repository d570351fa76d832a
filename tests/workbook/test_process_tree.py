"""A process tree ends in order, whoever started what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from processes import cwd, living, wait_for

from hardlab.workbook.process_tree import MARK, ProcessTree


def test_the_end_of_a_process_tree_gives_its_roots_time_to_save_spares_their_children_and_kills_the_stubborn(
    tmp_path: Path,
) -> None:
    worker = "trap 'touch worker-told' TERM; while :; do sleep 0.05; done"
    scripts = {
        "polite": f"(exec sh -c \"{worker}\") & w=$!; trap 'sleep 0.5; touch saved; kill -9 $w; exit' TERM",
        "stubborn": "trap '' TERM INT",
    }
    tree = ProcessTree()
    for name, script in scripts.items():
        loop = f"{script}; touch {name}; while :; do sleep 0.05; done"
        # each in a session of its own and an orphan at once, as under a kernel that died
        starter = f"import subprocess; subprocess.Popen(['sh', '-c', {loop!r}], start_new_session=True)"
        subprocess.run([sys.executable, "-c", starter], cwd=tmp_path, env=tree.environment(), check=True)
        wait_for(tmp_path / name)
    tree.end(list, lambda _: None, grace=3)
    assert (tmp_path / "saved").exists() and not (tmp_path / "worker-told").exists()
    assert [p.cmdline() for p in living() if cwd(p) == str(tmp_path)] == []


def test_the_mark_of_a_process_tree_is_inherited_beside_the_mark_of_an_outer_one() -> None:
    outer = ProcessTree()
    inner = ProcessTree()
    os.environ[MARK] = outer.mark
    try:
        assert inner.environment()[MARK].split(":") == [outer.mark, inner.mark]
    finally:
        del os.environ[MARK]
