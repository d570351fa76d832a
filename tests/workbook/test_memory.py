"""The calculated memory and arithmetic of a step, against steps that were measured here and on a GPU."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small_runs import small_run
from torch import nn
from torch.profiler import ProfilerActivity, profile

from hardlab import cli, recipes, train, transfer
from hardlab.types import Batch, HardlabError
from hardlab.workbook import memory

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu" / "nvidia-h200.json"
ROWS = {r["recipe"]: r for r in json.loads(GPU.read_text())["rows"] if r["rate"].startswith("gpu/")}


def measured_peak(name: str, **changes) -> int:
    """Bytes above those before a step, at the peak of a real step on this CPU that is as it would be on a GPU."""
    run = small_run(name, **changes)
    session = train.open(run)
    session.precision = "fp32"
    session.done = session.total // 2

    def step() -> None:
        n, side = run.batch_size, session.data.pixels.shape[-1]
        raw = torch.zeros(n, 3, side, side, dtype=torch.uint8)
        train.step(session, Batch(raw, torch.full((n, 2), side), torch.arange(n)))

    with transfer.without_values():
        step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            step()
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("simsiam", {"backbone": "resnet18"}, marks=pytest.mark.slow),
        pytest.param("simsiam", {"backbone": "resnet18", "backbone.recompute": True}, marks=pytest.mark.slow),
        ("moco", {"backbone": "tiny", "backbone.width": 32}),
        ("adco", {"backbone": "tiny", "backbone.width": 32}),
        ("dino-multicrop", {"backbone": "tiny", "backbone.width": 32}),
    ],
    ids=["resnet18", "resnet18-recompute", "moco", "adco", "dino-multicrop"],
)
def test_the_calculated_peak_is_that_of_a_real_step(name, changes):
    changes |= {"data": "shapes", "data.fraction": 0.1, "batch_size": 64, "precision": "fp32", "epochs": 1}
    calculated = memory.calculate(small_run(name, **changes))
    measured = measured_peak(name, **changes)
    assert calculated.activations == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    "name",
    [
        "hnssl",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("simsiam", "simclr-hvs", "moco", "hexa-plus-moco")),
    ],
)
def test_arithmetic_and_memory_are_those_measured_on_a_gpu(name):
    row = ROWS[name]
    cost = memory.calculate(recipes.recipe(name, "gpu"))
    assert cost.flops == pytest.approx(row["flops_per_image"], rel=0.01)
    # its rates were measured with a few images; cuDNN's workspaces are in what was measured, and not calculated
    measured = 2**20 * row["peak_memory_mb"]
    assert 1 <= measured / (cost.peak - cost.images) < 1.17


class Known(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(256, 512, bias=False), nn.Linear(512, 256, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).exp())


def test_the_tally_counts_what_lives_and_its_peak_and_forgets_what_ends():
    with memory.Tally() as tally:
        with torch.device("meta"):
            net = Known()
        x = torch.empty(1024, 256, device="meta")
        kept = tally.now
        y = net(x)
        hidden, out = 1024 * 512 * 4, 1024 * 256 * 4
        assert kept == 1024 * 256 * 4 + 2 * 256 * 512 * 4
        # the first layer's output ends once `exp`, which keeps its own output, is done
        assert tally.peak == kept + 2 * hidden and tally.now == kept + hidden + out
        assert tally.flops == 2 * 2 * 1024 * 256 * 512
        view = y.view(-1)
        assert tally.now == kept + hidden + out
        del y, view
        assert tally.now == kept
        torch.empty(3, device="meta")
        small = torch.empty(3, device="meta")
        assert tally.now == kept + 512
        del small


def test_recomputed_activations_take_less_of_the_peak_and_more_arithmetic():
    sizes = {"backbone": "resnet18", "data": "shapes", "batch_size": 64}
    plain = memory.calculate(small_run("simsiam", **sizes))
    again = memory.calculate(small_run("simsiam", **sizes, **{"backbone.recompute": True}))
    assert again.activations < 0.6 * plain.activations and 1.2 < again.flops / plain.flops < 1.34
    assert (again.networks, again.optimiser) == (plain.networks, plain.optimiser)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "settings", "fits"),
    [
        ("adco", ["batch_size=512", "hard.adco.size=65536"], True),
        ("dino-resnet50", ["batch_size=512"], False),
        ("dino-resnet50", ["batch_size=512", "backbone.recompute=true"], True),
    ],
)
def test_what_fits_80_gigabytes_with_resnet_50_at_224_pixels(recipe, settings, fits):
    done = CliRunner().invoke(cli.cli, ["costs", recipe, "--rung", "paper", "--json", *settings])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.output)
    run = recipes.recipe(recipe, "paper")
    assert run.backbone.name == "resnet50" and {a.size for a in run.augments()[0]} == {224}
    assert facts["fits"] == fits == (facts["peak"] <= 80e9)
    assert run.local is None or 2 + run.local.count == 10


def test_the_command_says_the_parts_and_whether_they_fit():
    small = ["backbone.width=8", "batch_size=32"]
    done = CliRunner().invoke(cli.cli, ["costs", "simsiam", *small])
    assert done.exit_code == 0, done.output
    parts = [float(x) for x in re.findall(r"([\d.]+) GB\b", done.output)]
    assert parts[4] == pytest.approx(sum(parts[:4]), abs=0.03) and "fits a card of 80 GB" in done.output
    short = CliRunner().invoke(cli.cli, ["costs", "simsiam", *small, "--card", "0.001"])
    assert "does not fit a card of 0.001 GB" in short.output


def test_a_step_that_cannot_be_calculated_ends_in_one_sentence(monkeypatch):
    monkeypatch.setattr(train, "step", lambda *a: torch.zeros(2).view(3))
    with pytest.raises(HardlabError, match=r"The memory of simsiam-.* cannot be calculated: RuntimeError: "):
        memory.calculate(small_run("simsiam"))
