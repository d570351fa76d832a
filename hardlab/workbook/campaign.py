"""Trains the missing runs of a campaign within a time budget, and packs the results into one archive."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hardlab import recipes
from hardlab.analysis import schema, tables
from hardlab.files import check_folder
from hardlab.stopping import STOPPED, requests
from hardlab.workbook import campaign_plan, costs, job_queue
from hardlab.workbook.archive import evaluated, pack, units
from hardlab.workbook.campaign_plan import Campaign, Stage, Survey
from hardlab.workbook.job_queue import Estimate, Job, Machine, Queue
from hardlab.workbook.workflow import locked

if TYPE_CHECKING:
    import subprocess

LIMIT_BYTES = 60 * 10**6  # largest size of the archive
# tables that take minutes, or need the weights of all systems: `hardlab figures --from` makes them
SLOW = ("importance", "predictability", "hardness", "transfer")


def run(
    stages: Sequence[Stage],
    *,
    budget: float,
    jobs: int | None = None,
    out: Path = Path("out/campaign"),
    data_dir: Path = Path("figures/data"),
    root: Path | None = None,
    device: str = "auto",
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Train and evaluate the missing runs of these stages for ``budget`` seconds.

    The call writes to ``out``: runs/, logs/, data/ (the tables of ``data_dir`` with the new rows) and
    ``campaign.tar.gz`` (rows, logs and manifests of all runs, view logs and snapshots as far as they fit, no weights).
    The same call continues an earlier one. Returns the exit status: 0 if done or out of time, 1 if a run failed, 75 if
    stopped on request.

    jobs: runs at a time; None = as many as fit into cores and memory.
    out: the folder of the campaign.
    data_dir: the collected tables, which decide what is missing.
    root: the folder of the data sets.
    dry_run: print the plan only.
    say: prints progress lines.
    """
    from hardlab import build

    gpu = build.device(device).type == "cuda"
    check_folder(out)
    machine = Machine.here(gpu)
    if jobs is not None:
        machine = replace(machine, places=jobs)
    campaign, estimate = prepare(stages, gpu, out / "runs", data_dir, root)
    table = campaign_plan.describe(campaign, machine.places)
    say(table)
    if dry_run or not campaign.jobs:
        return 0
    with locked(out, "a campaign"):
        log = out / "logs" / "campaign.log"
        (out / "logs" / "campaign.txt").write_text(table + "\n", encoding="utf-8")
        start = time.monotonic()

        def note(line: str) -> None:
            line = f"[{time.monotonic() - start:6.0f} s] {line}"
            say(line)
            with log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

        margin = min(45.0, 0.15 * budget)
        states, stopped = _work(campaign.jobs, machine, estimate, start + budget - margin, gpu, out, root, device, note)
        _collect(campaign, out, data_dir, root, note)
    failed = [name for name, state in states.items() if state in ("failed", "hung")]
    if failed:
        note(f"{len(failed)} runs failed, first {failed[0]}; its log is {out / 'logs' / failed[0]}.log.")
    return STOPPED if stopped else 1 if failed else 0


def prepare(
    stages: Sequence[Stage], gpu: bool, runs_dir: Path, data_dir: Path, root: Path | None
) -> tuple[Campaign, Estimate]:
    """The missing runs in order, and an estimate of the time that each takes on this machine."""
    import torch

    from hardlab import machine as here

    device = torch.device("cuda" if gpu else "cpu")
    name = torch.cuda.get_device_name() if gpu else here.processor()
    known: dict[str, float] = {}
    for rung in dict.fromkeys(stage.rung for stage in stages):
        measured = None if gpu else costs.calibrate(rung)
        if measured is None:
            continue
        for recipe, steps in costs.recorded()["training"].items():
            known[f"{rung}/{recipe}"] = recipes.recipe(recipe, rung).batch_size / (steps * measured.step)
    precision = here.resolve("auto", device)
    rates = campaign_plan.rates(schema.read_manifests(data_dir), name, precision, known)
    estimate = Estimate(rates, context_mb=600.0 if gpu else 100.0)
    survey = Survey(stages, data_dir, runs_dir, precision, root)
    return campaign_plan.work_out(survey, estimate), estimate


def _work(
    jobs: Sequence[Job],
    machine: Machine,
    estimate: Estimate,
    deadline: float,
    gpu: bool,
    out: Path,
    root: Path | None,
    device: str,
    say: Callable[[str], None],
) -> tuple[dict[str, str], bool]:
    """Run the jobs; returns the state of each run, and whether a signal asked to stop."""
    threads = 1 if gpu else max(1, (os.cpu_count() or 1) // machine.places)
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}

    def launch(job: Job) -> subprocess.Popen[bytes]:
        words = job_queue.command(job, out / "runs", device=device, threads=threads, root=root)
        return job_queue.start(words, out / "logs" / f"{job.id}.log", env, config=job.config)

    if not gpu:  # a job that is heavy on a GPU takes one core here, like any other
        jobs = [replace(job, weight=1) for job in jobs]
    (out / "runs").mkdir(exist_ok=True)
    queue = Queue(jobs, machine, estimate, launch, say, resumes=True)
    with requests() as asked:
        queue.run(deadline, lambda: bool(asked))
    left = [job for job in jobs if queue.state.get(job.id) != "done"]
    minutes = sum(estimate.seconds(job) or 0.0 for job in left) / machine.places / 60
    say(f"{len(jobs) - len(left)} runs done, {len(left)} left: about {minutes:.0f} minutes more.")
    return queue.state, bool(asked)


def _collect(campaign: Campaign, out: Path, data_dir: Path, root: Path | None, say: Callable[[str], None]) -> None:
    """Write the archive of the campaign's finished runs, and the tables with their rows."""
    runs, archive = out / "runs", out / "campaign.tar.gz"
    finished = [p.name for p in sorted(runs.iterdir()) if evaluated(p, ())]
    left_out = pack([archive], units(runs, out / "logs", finished), limit=LIMIT_BYTES)
    size = archive.stat().st_size / 1e6 if archive.exists() else 0.0
    say(
        f"{archive}: {len(finished)} runs, {size:.1f} MB" + (f"; no room for {len(left_out)} parts" if left_out else "")
    )
    if not finished:
        return
    fresh = out / ".data"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(data_dir, fresh)
    tables.collect(runs, fresh, root=root, add=True, only=[name for name in tables.BUILDERS if name not in SLOW])
    shutil.rmtree(out / "data", ignore_errors=True)
    fresh.rename(out / "data")
    say(f"Verdicts with these rows: `hardlab claims --data {out / 'data'}`")
    say(f"To keep the rows: `hardlab figures --all --from {runs} --add`")
