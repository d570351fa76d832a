"""A plan of three steps, and rates that a calibration might measure."""

from __future__ import annotations

from hardlab.workbook.costs import Rates
from hardlab.workbook.plan import Step, Training

RATES = Rates(0.1, 0.01, "fp32")


def step(name: str, *inputs: str, kind: str = "run", recipe: str = "simsiam", steps: int = 0) -> Step:
    trains = (Training(name, recipe, steps),) if kind == "run" else ()
    return Step(name, kind, name, f"what {name} is for", ((name,),), inputs, (f"{name}.txt",), trains=trains)


STEPS = [step("a", steps=100), step("b", steps=50), step("c", "a.txt", "b.txt", kind="report")]
