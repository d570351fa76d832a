"""What is asked of Slurm, with stand-ins for its commands; tests/test_slurm.py asks a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hardlab.types import HardlabError
from hardlab.workbook import cluster
from hardlab.workbook.cluster import Slurm

Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script on the path under the name of a program of Slurm; no other program of Slurm is there."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(cluster, "GONE_S", 2.0)

    def add(name: str, script: str) -> Path:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    for name in ("sbatch", "squeue", "scancel", "sacct"):
        add(name, "exit 1")
    return add


def refusal(*given: object) -> str:
    with pytest.raises(HardlabError) as refused:
        cluster.chosen(*given)
    return str(refused.value)


def test_options_that_do_not_go_together_are_refused_in_a_sentence(tmp_path: Path, program: Program) -> None:
    assert cluster.chosen("local", None, None, 3) is None
    assert "Did you mean 'slurm'" in refusal("slrum", 4, None, None)
    assert "--jobs=4 needs --executor slurm" in refusal("local", 4, None, None)
    assert f"--profile={tmp_path} needs --executor slurm" in refusal("local", None, tmp_path, None)
    assert "needs --jobs" in refusal("slurm", None, None, None)
    assert "--cores=3 is for this machine" in refusal("slurm", 4, None, 3)


def test_a_profile_is_a_folder_with_settings(tmp_path: Path, program: Program) -> None:
    assert "needs a file config.yaml" in refusal("slurm", 4, tmp_path, None)
    for text, why in (("a: [", "cannot be read as YAML"), ("- retries", "needs lines such as")):
        (tmp_path / "config.yaml").write_text(text)
        assert why in refusal("slurm", 4, tmp_path, None)
    (tmp_path / "config.yaml").write_text("")
    assert cluster.settings(tmp_path) == {}


def test_without_the_plugin_or_slurm_the_refusal_says_what_is_missing(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    assert cluster.chosen("slurm", 4, None, None) == Slurm(4)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "needs the command 'sbatch'" in refusal("slurm", 4, None, None)
    monkeypatch.setattr(cluster, "_PLUGIN", "snakemake_executor_plugin_nothing")
    assert "pip install 'hardlab[cluster]'" in refusal("slurm", 4, None, None)


def test_the_engine_gets_what_the_profile_leaves_open(tmp_path: Path, program: Program) -> None:
    def given(slurm: Slurm) -> dict[str, str]:
        words = cluster.options(slurm, tmp_path / "out")
        return dict(zip(words[::2], words[1::2], strict=True))

    plain = given(Slurm(7))
    assert plain["--executor"] == "slurm" and plain["--jobs"] == "7"
    assert plain["--retries"] == "3" and plain["--slurm-status-command"] == "squeue"
    program("sacct", "exit 0")
    assert "--slurm-status-command" not in given(Slurm(7))  # with an account of jobs, the plugin's own choice holds
    (tmp_path / "config.yaml").write_text("retries: 20\nlatency-wait: 5\n")
    own = given(Slurm(7, tmp_path))
    assert own["--profile"] == str(tmp_path) and not own.keys() & {"--retries", "--latency-wait"}


def test_the_jobs_of_a_folder_are_those_that_it_named(tmp_path: Path, program: Program) -> None:
    words = cluster.options(Slurm(1), tmp_path)
    name = words[words.index("--slurm-jobname-prefix") + 1]
    other = cluster.options(Slurm(1), tmp_path / "other")
    assert name not in other
    program("squeue", f'echo "3 {name}_1f-2"; echo "4 {name}x"; echo "5 my job"; echo "7_2 {name}_9"')
    assert cluster.queued(tmp_path) == ["3", "7_2"]
    program("squeue", "echo 'squeue: error: no controller' >&2; exit 1")
    with pytest.raises(HardlabError, match="Slurm does not answer: squeue: error: no controller"):
        cluster.queued(tmp_path)


def test_cancelling_takes_in_a_job_that_came_late_and_waits_for_the_last(tmp_path: Path, program: Program) -> None:
    """A queue as files, one for each job: 2 appears at the first look, and each lives for one look after its cancel."""
    words = cluster.options(Slurm(1), tmp_path)
    name = words[words.index("--slurm-jobname-prefix") + 1]
    queue = tmp_path / "queue"
    queue.mkdir()
    (queue / "1").touch()
    program(
        "squeue",
        f'cd {queue}; for j in *; do [ -f "$j" ] && echo "$j {name}_a"; done; rm -f $(cat ../ended 2>/dev/null)\n'
        "[ -e ../late ] || touch ../late 2\n: > ../ended",
    )
    program("scancel", f'echo "$@" >> {tmp_path}/cancelled; echo "$@" > {tmp_path}/ended')
    cluster.cancel(tmp_path)
    assert (tmp_path / "cancelled").read_text() == "1\n2\n" and list(queue.iterdir()) == []


def test_jobs_that_do_not_end_are_named(tmp_path: Path, program: Program) -> None:
    words = cluster.options(Slurm(1), tmp_path)
    program("squeue", f'echo "3 {words[words.index("--slurm-jobname-prefix") + 1]}_a"')
    with pytest.raises(HardlabError, match="`scancel 3` ends them"):
        cluster.cancel(tmp_path)


def test_the_last_trouble_of_slurm_in_the_log_of_the_engine_is_the_one_that_is_told() -> None:
    refused = "    message: SLURM sbatch failed. The error message was 'sbatch: error: invalid partition: here'."
    killed = "    message: SLURM-job '12' failed, SLURM status is: 'OUT_OF_MEMORY'. Detailed failure reason unavailable"
    assert cluster.trouble(["Building DAG of jobs...", "done"]) is None
    assert cluster.trouble([killed, refused]) == "Slurm refused a job (invalid partition: here)"
    assert cluster.trouble([refused, killed]) == "Slurm's job 12 ended as OUT_OF_MEMORY"
