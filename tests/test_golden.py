"""Ten steps of each system give the losses they gave when they were last looked at: an unmeant change shows.

In double precision, where what processors, kernels and threads round differently stays far below what any change moves.
`python tests/test_golden.py` records them anew; a change belongs under "Numbers moved" in CHANGELOG.md.
"""

import json
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from hardlab import recipes, registry, run_folder, train
from hardlab.workbook import parallel

TRACES = Path(__file__).with_name("golden.json")
SYSTEMS = (
    "simsiam", "simclr", "moco", "byol", "dino-multicrop", "ibot", "deepcluster-6crop", "supervised", "hnssl", "gan",
    "simclr-dd", "hexa-plus-moco", "hexa-plus-deepcluster", "clae", "simsiam-hvs", "dino-hvs", "simsiam-iou-40-60",
    "stn-affine", "adco", "ppcl", "vicreg", "barlow", "simclr-hcl", "moco-mochi", "moco-synco",
    "simclr-sas",
)  # fmt: skip
STEPS = 10
SMALL = {
    "data": {"name": "shapes", "fraction": 0.08},
    "precision": "fp32",
    "epochs": 1,
    "batch_size": 16,
    "logs.step_every": 1,
}

# settings under which what makes the system is at work within these steps
ACTIVE = {
    "adco": {"hard.adco.size": 64},
    "hnssl": {"hard.mined.threshold": 30.0},
    "ppcl": {"hard.generated.every": 3, "data.fraction": 0.04},  # its GAN learns on all of them
    "stn-affine": {"augment.size": 24},  # of 32: at whole pixels the slope of an interpolation jumps
    "moco-mochi": {"hard.mochi.warmup_epochs": 0},
    "moco-synco": {"hard.synco.warmup_epochs": 0},
    "simclr-sas": {"parent.backbone.width": 16},
}

# what else is traced: in these steps the discriminator is so sure of generated images that its loss ignores them
LOGGED = {"gan": ("d_fake",)}
# the first transformer is the identity, near which an interpolation amplifies rounding
LOOSE = {"stn-affine": 2e-5}


@contextmanager
def double_precision():
    """Inside, all is float64, and drawn alike by every release of torch."""
    with parallel.double_precision(), pytest.MonkeyPatch.context() as patch:
        # releases draw it differently; at -2 and 2, a hundred deviations away, nothing is cut off
        patch.setattr(torch.nn.init, "trunc_normal_", torch.nn.init.normal_)
        yield


class Enough(Exception):
    """The steps of a trace are taken."""


@contextmanager
def ended_after(run, steps):
    """Inside, the training of this run ends after its first steps, as one with a whole plan of rates."""
    step = train.step

    def counted(session, batch):
        if session.run == run and session.done == steps:
            raise Enough
        return step(session, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "step", counted)
        with suppress(Enough):
            yield


def trace(name, runs_dir, changes=None):
    """Every term of the loss, and what is ``LOGGED``, at each of the first steps: name -> numbers.

    changes: of the recipe.
    """
    run = recipes.recipe(name, "smoke")
    small = (
        SMALL
        | ACTIVE.get(name, {})
        | ({f"parent.{k}": v for k, v in SMALL.items() if k != "data"} if run.parent else {})
    )
    if run.backbone.name == "tiny":
        small["backbone.width"] = 16
    run = run.with_(small | (changes or {}))
    with double_precision(), ended_after(run, STEPS):
        train.train(run, Path(runs_dir), device="cpu", say=lambda line: None)
    steps = run_folder.metrics(Path(runs_dir) / run.id, "step")
    rows = [step["terms"] | {key: step[key] for key in LOGGED.get(name, ())} for step in steps]
    return {key: [row.get(key) for row in rows] for key in sorted(set().union(*rows))}


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_ten_steps_give_the_losses_they_gave_before(name, tmp_path):
    wanted, got = json.loads(TRACES.read_text())[name], trace(name, tmp_path)
    assert got.keys() == wanted.keys()
    for term, values in wanted.items():
        assert len(got[term]) == STEPS
        assert got[term] == pytest.approx(values, rel=LOOSE.get(name, 1e-6), abs=1e-8)


def test_a_strategy_with_a_loss_of_its_own_has_it_in_its_trace():
    traces = json.loads(TRACES.read_text())
    wanted = {"hnssl": {"mined"}, "clae": {"adversarial"}}
    wanted |= {f"hexa-plus-{base}": {"adversarial", "cutmix"} for base in ("moco", "deepcluster")}
    for name, terms in wanted.items():
        for term in terms:
            assert sum(value is not None for value in traces[name][term]) >= 0.75 * STEPS, (name, term)


def test_every_method_and_every_strategy_has_a_trace():
    runs = [recipes.recipe(name, "smoke") for name in SYSTEMS]
    own = {
        kind: {n for n, path in registry.TABLES[kind].items() if path.startswith("hardlab.")}
        for kind in ("method", "strategy")
    }
    assert {run.method.name for run in runs} >= own["method"]
    assert {s.name for run in runs for s in run.hard} >= own["strategy"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = {}
    for system in sys.argv[1:] or SYSTEMS:
        with tempfile.TemporaryDirectory() as folder:
            made[system] = trace(system, folder)
    known = json.loads(TRACES.read_text()) if TRACES.exists() else {}
    kept = {name: t for name, t in (known | made).items() if name in SYSTEMS}
    TRACES.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
