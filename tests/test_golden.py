"""Twenty steps of each system give the losses they gave when they were last looked at: an unmeant change shows.

`python tests/test_golden.py` records them anew; a change belongs under "Numbers moved" in CHANGELOG.md.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from hardlab import recipes, registry, runs, train

TRACES = Path(__file__).with_name("golden.json")
SYSTEMS = (
    "simsiam", "simclr", "moco", "byol", "dino-multicrop", "deepcluster-6crop", "supervised", "hnssl", "gan",
    "simclr-dd", "hexa-plus-moco", "hexa-plus-deepcluster", "clae", "simsiam-hvs", "dino-hvs", "simsiam-iou-40-60",
    "stn-affine", "adco", "ppcl",
)  # fmt: skip
SMALL = {
    "data": {"name": "shapes", "fraction": 0.16},
    "precision": "fp32",
    "epochs": 1,
    "batch_size": 16,
    "logs.step_every": 1,
}

# settings under which what makes the system is at work within 20 steps
ACTIVE = {"adco": {"hard.adco.size": 64}, "hnssl": {"hard.mined.threshold": 30.0}}


def trace(name, runs_dir):
    """Every term of the loss in each of the first 20 steps: name -> 20 numbers."""
    torch.set_num_threads(1)
    run = recipes.recipe(name, "smoke")
    small = (
        SMALL
        | ACTIVE.get(name, {})
        | ({f"parent.{k}": v for k, v in SMALL.items() if k != "data"} if run.parent else {})
    )
    path = train.train(run.with_(small), Path(runs_dir), device="cpu", say=lambda line: None)
    steps = runs.metrics(path, "step")[:20]
    return {
        term: [step["terms"].get(term) for step in steps] for term in sorted({t for s in steps for t in s["terms"]})
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_twenty_steps_give_the_losses_they_gave_before(name, tmp_path):
    wanted, got = json.loads(TRACES.read_text())[name], trace(name, tmp_path)
    assert got.keys() == wanted.keys()
    for term, values in wanted.items():
        assert len(got[term]) == 20
        assert got[term][:5] == pytest.approx(values[:5], rel=1e-3, abs=1e-4)
        assert got[term] == pytest.approx(values, rel=5e-2, abs=1e-2)  # rounding grows from step to step


def test_a_strategy_with_a_loss_of_its_own_has_it_in_its_trace():
    traces = json.loads(TRACES.read_text())
    wanted = {"hnssl": {"mined"}, "clae": {"adversarial"}}
    wanted |= {f"hexa-plus-{base}": {"adversarial", "cutmix"} for base in ("moco", "deepcluster")}
    for name, terms in wanted.items():
        for term in terms:
            assert sum(value is not None for value in traces[name][term]) >= 15, (name, term)


def test_every_method_and_every_strategy_has_a_trace():
    told = [recipes.recipe(name, "smoke") for name in SYSTEMS]
    assert {run.method.name for run in told} >= registry.METHODS.keys()
    assert {s.name for run in told for s in run.hard} >= registry.HARD.keys()


if __name__ == "__main__":
    made = {}
    for system in sys.argv[1:] or SYSTEMS:
        with tempfile.TemporaryDirectory() as folder:
            made[system] = trace(system, folder)
    known = json.loads(TRACES.read_text()) if TRACES.exists() else {}
    kept = {name: t for name, t in (known | made).items() if name in SYSTEMS}
    TRACES.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
