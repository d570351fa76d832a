"""docs/cluster.md against the code: its commands, its Snakemake profile, and its Kubernetes Job that nobody has run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import yaml

from hardlab.cli import cli
from hardlab.stopping import STOPPED
from hardlab.workbook import cluster, costs
from hardlab.workbook.job_queue import GRACE_S

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)


def options(words: list[str]) -> dict[str, Any]:
    """The values that hardlab reads from a command line, with those that it says by default."""
    name, *rest = words
    command = cli.commands[name]
    return command.make_context(name, rest).params if isinstance(command, click.Command) else {}


def test_every_command_of_the_page_is_one_that_hardlab_reads() -> None:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    given = [options(shlex.split(line, comments=True)[1:]) for line in lines]
    assert len(given) == 3 and all(g["executor"] == "slurm" and g["jobs"] for g in given)
    assert [g["dry_run"] for g in given] == [True, False, False] and given[2]["profile"] == Path("FOLDER")


def test_the_profile_of_the_page_is_one_and_hardlab_leaves_what_it_sets(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(blocks("yaml")[0])
    given = cluster.settings(tmp_path)
    assert given["default-resources"].keys() == {"slurm_partition", "slurm_account", "runtime"}
    assert "--retries" in cluster.options(cluster.Slurm(1), tmp_path)
    assert "--retries" not in cluster.options(cluster.Slurm(1, tmp_path), tmp_path)


def test_the_kubernetes_job_of_the_page_runs_hardlab_and_takes_a_stop_for_no_failure() -> None:
    job = yaml.safe_load(blocks("yaml")[1])
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    program, *words = container["command"]
    assert program.endswith("/hardlab") and not Path(program).is_absolute()
    cores = options(words)["cores"]
    assert str(cores) == container["resources"]["requests"]["cpu"]
    assert container["resources"]["limits"]["memory"] == f"{cores * costs.MEMORY_MB // 1000}Gi"
    [rule] = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "Ignore" and pod["restartPolicy"] == "Never"  # without which a Job has no such rules
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [STOPPED]}
    assert pod["terminationGracePeriodSeconds"] > GRACE_S
    assert [m["name"] for m in container["volumeMounts"]] == [v["name"] for v in pod["volumes"]]
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"]


def test_the_page_states_the_numbers_of_the_code() -> None:
    text = " ".join(TEXT.split())
    assert (
        f"Memory (`mem_mb`) is {costs.MEMORY_MB:,} MB for up to three threads and {4 * costs.MEMORY_MB:,} MB for"
        in text
    )
    own = cluster._DEFAULTS
    assert f"hardlab's own ({own['retries']}, {own['latency-wait']} seconds, and `squeue`" in text
