"""Prints the progress of a plan: its steps, then a line per running step, and a table at the end."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from hardlab.errors import HardlabError
from hardlab.files import content, read_lines, read_manifest
from hardlab.workbook import costs
from hardlab.workbook.costs import Rates
from hardlab.workbook.plan import Step

LOG_EVERY = 10.0  # seconds between two lines if the output is a file
DRAW_EVERY = 0.5  # the same on a terminal, which is redrawn in place
_PRIOR = 45.0  # seconds of finished steps before their real times outweigh the estimates


def describe(plan: Sequence[Step], todo: Sequence[Step], rates: Rates | None, cores: int) -> str:
    """The plan as text: number, title, purpose and minutes of each step, then the total minutes."""
    due = {s.name for s in todo}
    guess = {s.name: costs.estimate(s, rates) for s in plan}
    wide = max(len(s.title) for s in plan)
    lines = []
    for number, step in enumerate(plan, 1):
        timing = "done before" if step.name not in due else f"about {clock(guess[step.name])}" if rates else ""
        purpose = f"for {step.purpose}" if step.kind == "run" else step.purpose
        lines.append(f"{number:4}  {step.kind:9} {step.title:{wide}}  {timing:12} {purpose}".rstrip())
    line = f"{len(todo)} of {len(plan)} steps to run"
    if rates is not None and todo:
        line += (
            f", about {_minutes(costs.finish(todo, guess, cores))} with {cores} at a time. Measured now: a training "
            f"step of {1000 * rates.step:.0f} ms in {rates.precision}"
        )
    elif todo:
        line += "; their time on a GPU has not been measured"
    return "\n".join([*lines, line + "."])


class Display:
    """Follows the steps by the files that they write to ``folder``; prints to ``out``."""

    def __init__(
        self, plan: Sequence[Step], todo: Sequence[Step], rates: Rates | None, cores: int, folder: Path,
        out: IO[str] | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.todo, self.cores, self.folder = plan, todo, cores, folder
        self.out = out or sys.stdout
        self.guess = {s.name: costs.estimate(s, rates) for s in plan}
        self.known = rates is not None
        self.number = {s.name: i for i, s in enumerate(plan, 1)}
        self.begun = time.monotonic()
        self.started: dict[str, float] = {}
        self.took: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.live = self.out.isatty()
        self._drawn = 0
        self._due = 0.0

    def update(self, now: float | None = None) -> None:
        """Read the files; print new events and, when due, the running steps."""
        now = time.monotonic() if now is None else now
        for step in self.todo:
            if step.name in self.took or step.name in self.failed:
                continue
            if step.name not in self.started and (self.folder / step.log).exists():
                self.started[step.name] = now
                self._say(f"{self._name(step)}: started{self._expected(step)}")
            if step.name not in self.started:
                continue
            if (self.folder / step.failed).exists():
                self.failed[step.name] = why(self.folder / step.log)
                self._say(f"{self._name(step)}: FAILED. {self.failed[step.name]} Its log: {self.folder / step.log}")
            elif all((self.folder / o).exists() for o in step.outputs):
                self.took[step.name] = now - self.started[step.name]
                self._say(f"{self._name(step)}: done in {clock(self.took[step.name])}")
        if now >= self._due:
            self._due = now + (DRAW_EVERY if self.live else LOG_EVERY)
            self._draw(now)

    def close(self) -> None:
        """Remove half-drawn lines."""
        self._clear()

    def table(self, stopped: bool = False) -> str:
        """A table of all steps with their states, times and problems."""
        due = {s.name for s in self.todo}
        wide = max(len(s.title) for s in self.plan)
        lines = [f"   #  {'step':{wide + 10}} {'state':12} {'time':>7}  problem"]
        for step in self.plan:
            spent, short = "", ""
            if step.name not in due:
                state = "done before"
            elif step.name in self.took:
                state, spent = "done", clock(self.took[step.name])
            elif step.name in self.failed:
                state, short = "FAILED", f"{self.failed[step.name]} Log: {self.folder / step.log}"
            elif step.name in self.started:
                state = "stopped"
                short = "the same command continues it" if step.kind == "run" else "the same command starts it again"
            else:
                state = "not run"
                short = "the workbook was stopped first" if stopped else self._blocked(step)
            lines.append(
                f"{self.number[step.name]:4}  {step.kind:9} {step.title:{wide}} {state:12} {spent:>7}  {short}".rstrip()
            )
        return "\n".join(lines)

    def left(self, now: float) -> float:
        """Seconds until everything is done, from the estimates and their errors so far."""
        spent = sum(self.took.values())
        factor = (spent + _PRIOR) / (sum(self.guess[n] for n in self.took) + _PRIOR)
        seconds = {n: g * factor for n, g in self.guess.items()}
        running = {}
        for step in self._running():
            share, elapsed = self._share(step, now), now - self.started[step.name]
            by_share = elapsed * (1 - share) / share if share > 0.15 else seconds[step.name] - elapsed
            running[step.name] = max(1.0, by_share)
        todo = [s for s in self.todo if s.name not in self.took and s.name not in self.failed]
        return costs.finish(todo, seconds, self.cores, running)

    def _blocked(self, step: Step) -> str:
        makers = {o: s for s in self.plan for o in s.outputs}
        for name in step.inputs:
            before = makers.get(name)
            if before is not None and before.name in self.failed:
                return f"it needs {before.title}, which failed"
            if before is not None and before.name not in self.took and any(before.name == s.name for s in self.todo):
                return f"it needs {before.title}, which was not run"
        return "it was not reached"

    def _running(self) -> list[Step]:
        return [
            s for s in self.todo if s.name in self.started and s.name not in self.took and s.name not in self.failed
        ]

    def _name(self, step: Step) -> str:
        purpose = f", for {step.purpose}" if step.kind == "run" else ""
        return f"step {self.number[step.name]} of {len(self.plan)}: {step.title}{purpose}"

    def _expected(self, step: Step) -> str:
        return f", about {clock(self.guess[step.name])}" if self.known else ""

    def _share(self, step: Step, now: float) -> float:
        """The share of a step that is done, 0 to 0.99, by training steps for a run, else by time."""
        if self.known and self.guess[step.name]:
            by_time = min(0.95, (now - self.started[step.name]) / self.guess[step.name])
        else:
            by_time = 0.0
        if not step.trains:
            return by_time
        shares = [(t.steps, trained_share(self.folder / "runs" / t.run)) for t in step.trains]
        if all(share is None for _, share in shares):
            return by_time
        done, total = sum(n * (share or 0.0) for n, share in shares), sum(n for n, _ in shares)
        return 0.9 * done / total if total else by_time  # the rest is the evaluation

    def _draw(self, now: float) -> None:
        running = self._running()
        total = sum(self.guess[s.name] for s in self.todo)
        part = sum(self.guess[n] for n in (*self.took, *self.failed))
        part += sum(self._share(s, now) * self.guess[s.name] for s in running)
        elapsed = now - self.begun
        head = f"{clock(elapsed)} gone"
        if self.known and total:
            head = f"{100 * part / total:3.0f} % | {head}, about {clock(self.left(now))} left"
        steps = [
            f"{self.number[s.name]} {s.title} {100 * self._share(s, now):.0f} %, {clock(now - self.started[s.name])}"
            for s in running
        ]
        if not self.live:
            print(" | ".join([head, *steps]), file=self.out, flush=True)
            return
        self._clear()
        wide = shutil.get_terminal_size().columns - 1
        lines = [line[:wide] for line in [*(f"  {s}" for s in steps), head]]
        print("\n".join(lines), file=self.out, flush=True)
        self._drawn = len(lines)

    def _say(self, line: str) -> None:
        self._clear()
        print(line, file=self.out, flush=True)

    def _clear(self) -> None:
        if self._drawn:
            self.out.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0


def trained_share(run: Path) -> float | None:
    """The share of a run's training steps that are done, from its files; None before the first one is logged."""
    try:
        about = json.loads(content(run / "manifest.json"))
        if about["state"] == "done":
            return 1.0
        config = about["config"]
        total = config["epochs"] * (about["data"]["count"] // config["batch_size"])
        last = content(run / "metrics.jsonl").splitlines()[-1]
        return json.loads(last)["step"] / total
    except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError):  # missing, incomplete, or damaged
        return None


def why(log: Path) -> str:
    """The last message of a failed step, as one sentence."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace").splitlines()
        # indented lines name files or belong to a traceback
        lines = [line.strip() for line in text if not line.startswith("  ")]
    except OSError:
        lines = []
    lines = [line for line in lines if line]
    message = next((line for line in reversed(lines) if line.startswith("hardlab: ")), lines[-1] if lines else "")
    message = message.removeprefix("hardlab: ").removeprefix("Error: ")[:300]
    return f"{message}." if message and message[-1] not in ".!?" else message or "Its log is empty."


def clock(seconds: float) -> str:
    """Seconds as text: minutes and seconds, or hours and minutes from an hour on."""
    total = max(0, round(seconds))
    if total >= 3600:
        return f"{total // 3600} h {total % 3600 // 60:02} min"
    return f"{total // 60}:{total % 60:02}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def seconds_per_step(runs: Path) -> Mapping[str, float]:
    """Recipe -> seconds of a training step, from the logged epochs of a folder's finished runs."""
    seconds: dict[str, float] = {}
    for folder in sorted(runs.iterdir()):
        try:
            about = read_manifest(folder / "manifest.json")
            rows = read_lines(folder / "metrics.jsonl")
            total = sum(r["seconds"]["total"] for r in rows if r["kind"] == "epoch")
            if about["state"] == "done" and about["steps_done"]:
                seconds[about["config"]["recipe"]] = total / about["steps_done"]
        except (HardlabError, LookupError):
            continue
    return seconds
