"""Row 13 of the fault table: what is wrong with a run is said in plain words, within a stated number of steps."""

from __future__ import annotations

import math
import os
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from resuming import learned, same, stopping_at
from small_runs import small_run

from hardlab import biggan, build, health, meters, recipes, run_folder, train
from hardlab.data.base import Images
from hardlab.hard.adco import AdCo
from hardlab.methods.base import Method
from hardlab.methods.gan import GAN
from hardlab.methods.simclr import SimCLR
from hardlab.stopping import Stopped

FAST, SLOW = 1, 2  # whether signs show in a step, or in the time since PATIENCE steps ago


def constant(monkeypatch):
    own = Method.pooled
    monkeypatch.setattr(Method, "pooled", lambda self, x, net=None: own(self, x, net) * 0 + 1)


def on_a_line(monkeypatch):
    own = Method.pooled
    monkeypatch.setattr(Method, "pooled", lambda self, x, net=None: own(self, x, net).mean(1, True).expand(-1, 16) * 3)


def one_image(monkeypatch):
    own = biggan.Generator.forward
    monkeypatch.setattr(biggan.Generator, "forward", lambda self, z: own(self, z) * 0)


def one_score(monkeypatch):
    own = GAN.pooled
    monkeypatch.setattr(GAN, "pooled", lambda self, x, net=None: own(self, x, net) * 0)


def far_apart(monkeypatch):
    own = GAN.pooled

    def pooled(self, x, net=None):
        f, w = own(self, x, net), self.head.weight[0].detach()
        side = torch.ones(len(f), 1)
        side[len(f) // 2 :] = -1  # real images first
        return f * 1e-3 + 100 * side * w

    monkeypatch.setattr(GAN, "pooled", pooled)


def slow_data(monkeypatch):
    own = Images.batches

    def batches(self, order):
        for batch in own(self, order):
            time.sleep(0.3)
            yield batch

    monkeypatch.setattr(Images, "batches", batches)


def scaled(norm):
    own = AdCo.after_step

    def force(monkeypatch):
        def after_step(self, step):
            own(self, step)
            with torch.no_grad():
                self.bank.vectors.copy_(F.normalize(self.bank.vectors, dim=1) * norm)

        monkeypatch.setattr(AdCo, "after_step", after_step)

    return force


FORCED = {
    "constant, SimSiam": ("simsiam", {}, constant, "collapse", FAST),
    "constant, MoCo": ("moco", {}, constant, "collapse", FAST),
    "constant, SimCLR: the loss too": ("simclr", {}, constant, "loss of a guess", FAST),
    "rank one": ("moco", {}, on_a_line, "rank one", FAST),
    "exploding": ("adco", {}, scaled(1e4), "norms of negatives", FAST),
    "vanishing": ("adco", {}, scaled(1e-4), "norms of negatives", FAST),
    "dead generator": ("gan", {}, one_image, "dead generator", FAST),
    "dead discriminator": ("gan", {}, one_score, "dead discriminator", FAST),
    "saturated discriminator": ("gan", {}, far_apart, "dead discriminator", FAST),
    "temperature of 1000": ("simclr", {"method.temperature": 1000.0}, None, "loss of a guess", FAST),
    "slow loader": ("simsiam", {}, slow_data, "idle device", SLOW),
}


def quick(name, **more):
    return small_run(name, **{"epochs": 3, "logs.views_every": 1000, **more})


@pytest.mark.parametrize("case", FORCED)
def test_a_forced_fault_is_said_within_the_stated_steps(case, tmp_path, monkeypatch, count):
    name, more, force, rule, windows = FORCED[case]
    if force is not None:
        force(monkeypatch)
    lines = []
    path = train.train(quick(name, **more), tmp_path, device="cpu", say=lines.append)
    kept = run_folder.manifest(path)["health"]
    alarm = next((a for a in kept if a["rule"] == rule), None)
    assert alarm is not None, kept
    assert health.PATIENCE <= alarm["step"] <= windows * health.PATIENCE
    # in the log with the step, in the metrics, and once each
    assert [f"step {alarm['step']}," in line for line in lines if alarm["sentence"] in line] == [True]
    assert [r["sentence"] for r in run_folder.metrics(path, "health") if r["rule"] == rule] == [alarm["sentence"]]
    assert f"{rule} (step {alarm['step']})" in lines[-1]
    count("13 forced faults", 1)


SOME = ("simsiam", "moco", "adco", "gan")
OTHERS = ("simclr", "simsiam-hvs", "byol", "dino", "hnssl", "deepcluster", "hexa-moco", "stn-affine", "supervised")


@pytest.mark.parametrize("name", [*SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_healthy_run_raises_no_alarm_from_its_first_step_on(name, tmp_path, count):
    path = train.train(quick(name), tmp_path, device="cpu", say=lambda line: None)
    assert len(run_folder.metrics(path, "step")) >= 2 * health.PATIENCE
    assert run_folder.manifest(path)["health"] == []
    count("13 healthy runs", 1)


FEW = {
    "two classes": ("supervised", {"data.classes": ["0", "1"], "data.fraction": 0.5}),
    "three classes": ("supervised", {"data.classes": ["0", "1", "2"], "data.fraction": 0.5}),
    "two dimensions": ("simclr", {"method.dim": 2}),
    "two images": ("simsiam", {"batch_size": 2, "data.fraction": 0.03}),
}


@pytest.mark.parametrize("case", FEW)
def test_predictions_that_can_have_no_higher_rank_raise_no_alarm_for_their_rank(case, tmp_path, count):
    name, more = FEW[case]
    path = train.train(quick(name, **more), tmp_path, device="cpu", say=lambda line: None)
    assert len(run_folder.metrics(path, "step")) >= 2 * health.PATIENCE
    assert run_folder.manifest(path)["health"] == []
    count("13 healthy runs", 1)


# what makes a recipe large; its method, temperatures, rates, schedules and views stay those of the rung, as does DINO's
# head (with 256 prototypes under the rates of rung gpu it does collapse)
NARROW = {
    "data": {"name": "digits", "fraction": 0.25},
    "batch_size": 32,
    "epochs": 1,
    "precision": "fp32",
    "augment.size": 32,
    "logs.step_every": 1,
    "logs.checkpoint_every": 1,
    "logs.views_every": 1000,
}
NARROW_METHODS = {
    "deepcluster": {"method.prototypes": 50},
    "vicreg": {"method.dim": 256},
    "barlow": {"method.dim": 256},
    "gan": {"method.width": 4, "method.size": 32, "backbone.options": {"size": 32, "width": 4}},
}


def narrow(name, rung):
    """A recipe of a large rung as it stands, but for its images, its width and its length."""
    run = recipes.recipe(name, rung)
    small = NARROW | NARROW_METHODS.get(run.method.name, {})
    if run.method.name != "gan":
        wide = "vit_micro" if run.backbone.name.startswith("vit") else "tiny"
        small |= {"backbone": {"name": wide, "options": {"width": 8} if wide == "tiny" else {}}}
    if run.local is not None:
        small["local.size"] = 16
    if any(spec.name == "adco" for spec in run.hard):
        small |= {"hard.adco.size": 64}
    for spec in run.hard:
        if spec.name in ("mochi", "synco"):
            small[f"hard.{spec.name}.warmup_epochs"] = 0
    if any(spec.name == "sas" for spec in run.hard):
        small |= {"hard.sas.classes": 10, "hard.sas.share": 1.0}
    if any(spec.name == "generated" for spec in run.hard):
        small |= {"hard.generated.size": 32, "hard.generated.width": 4}
    return run.with_(small | ({"parent": None} if run.parent is not None else {}))


FIRST = ("simclr", "adco-multicrop", "deepcluster-8crop", "clae")
LARGE = FIRST if os.environ.get("HARDLAB_FAULTS") != "long" else [n for n in recipes.RECIPES if n != "untrained"]


@pytest.mark.slow
@pytest.mark.parametrize("rung", ["gpu", "paper"])
@pytest.mark.parametrize("name", LARGE)
def test_a_recipe_of_a_large_rung_raises_no_alarm_in_its_first_steps(name, rung, tmp_path, count):
    path = train.train(narrow(name, rung), tmp_path, device="cpu", say=lambda line: None)
    assert len(run_folder.metrics(path, "step")) >= 2 * health.PATIENCE
    assert run_folder.manifest(path)["health"] == []
    count("13 healthy runs", 1)


def test_the_signals_of_the_workbooks_runs_raise_no_alarm_but_where_the_easiest_pair_is_selected(count):
    """Means of each kept epoch of the runs of rung cpu, in order, as if each were a logged step.

    Of the arm that selects the easiest pair HVS says that it collapses (App. F.2); an alarm there is right.
    """
    from hardlab.analysis import schema
    from hardlab.workbook.report import ROOT

    table = schema.read(ROOT / "figures" / "data", "epochs")
    looked, ill = 0, []
    for run, rows in table.pivot_table(index=["run", "epoch"], columns="name", values="value").groupby("run"):
        monitor = health.Monitor()
        for (_, epoch), row in rows.iterrows():
            logged = row.dropna().to_dict()
            if {"std", "rank", "loss"} <= logged.keys():
                monitor.look({"step": epoch, "kind": "step", **logged})
                looked += 1
        ill += [(run, a["sentence"]) for a in monitor.alarms]
    assert looked > 1000
    count("13 epochs of healthy runs", looked)
    assert [(run, sentence) for run, sentence in ill if not run.startswith("simsiam-hvs-easy-")] == []


def row(step=1, **more):
    return {"kind": "step", "step": step, "loss": 3.0, "std": 1.0, "rank": 20.0, "loss_of_guess": 5.0, **more}


ILL = {
    "collapse": {"std": 0.01},
    "rank one": {"rank": 1.9},
    "norms of negatives": {"adco.norm": 2e3},
    "dead generator": {"generated.g_spread": 0.001},
    "dead discriminator": {"d_spread": 5.0, "loss": 0.001, "loss_of_guess": None},
    "loss of a guess": {"loss": 5.0004},
    "false negatives": {"copies": 0.2},
}


@pytest.mark.parametrize("rule", ILL)
def test_a_rule_speaks_at_the_fifth_logged_step_in_a_row_and_once(rule):
    monitor = health.Monitor()
    sick, well = row(**ILL[rule]), row()
    for step in range(health.PATIENCE - 1):
        assert monitor.look({**sick, "step": step}) == []
    assert monitor.look(well) == []  # the count starts again
    alarms = [monitor.look({**sick, "step": 100 + step}) for step in range(2 * health.PATIENCE)]
    assert [[a["rule"] for a in f] for f in alarms] == [[]] * 4 + [[rule]] + [[]] * 5
    assert alarms[4][0]["step"] == 104 and alarms[4][0]["sentence"].startswith(
        "At step 104, and 4 logged steps before it, "
    )


def test_the_norm_below_and_above_and_the_discriminator_of_a_strategy_are_told_apart():
    assert "vanish" in health.RULES["norms of negatives"](row(**{"adco.norm": 1e-4}))
    assert "explode" in health.RULES["norms of negatives"](row(**{"adco.norm": 1e4}))
    assert health.RULES["norms of negatives"](row(**{"adco.norm": 33.0})) is None
    its_own = row(**{"generated.d_spread": 2.0, "generated.d_loss": 1.5, "loss": 0.0})
    assert health.RULES["dead discriminator"](its_own) is None  # the loss is the learner's
    assert "no mistake" in health.RULES["dead discriminator"](its_own | {"generated.d_loss": 0.0})


@pytest.mark.parametrize("name", ["simclr", "moco", "adco"])
def test_the_loss_of_a_guess_is_the_logarithm_of_the_negatives_and_one(name):
    session = train.open(quick(name), device="cpu", say=lambda line: None)
    out = train.step(session, next(session.batches())).out
    negatives = {"simclr": 2 * 32 - 2, "moco": len(session.method.negatives.stored()), "adco": 64 + 31}[name]
    assert health.loss_of_guess(session.method, out) == pytest.approx(math.log(1 + negatives))


def test_waiting_is_counted_over_the_last_rows_across_epochs_and_not_in_a_short_time():
    monitor = health.Monitor()
    shares = [monitor._waiting({"total": t, "data": d}) for t, d in ((0.4, 0.4), (0.8, 0.4), (1.6, 0.4), (0.5, 0.5))]
    # since the first row: 1.2 s of which none was waited, then 0.5 s of a new epoch, all of it
    assert shares[:2] == [0.0, 0.0]
    assert shares[2] == pytest.approx(0.0) and shares[3] == pytest.approx(0.5 / 1.7)


def test_a_run_that_was_stopped_says_the_same_at_the_same_step_as_one_that_was_not(tmp_path, monkeypatch):
    constant(monkeypatch)
    run = quick("simsiam")
    whole = train.train(run, tmp_path / "whole", device="cpu", say=lambda line: None)
    monkeypatch.setattr(meters.Rate, "tick", stopping_at(3))
    with pytest.raises(Stopped):
        train.train(run, tmp_path / "parts", device="cpu", say=lambda line: None)
    assert run_folder.manifest(tmp_path / "parts" / run.id)["health"] == []
    parts = train.train(run, tmp_path / "parts", device="cpu", say=lambda line: None)
    assert run_folder.manifest(parts)["health"] == run_folder.manifest(whole)["health"] != []
    assert run_folder.metrics(parts, "health") == run_folder.metrics(whole, "health")


@pytest.mark.parametrize("name", ["moco", pytest.param("gan", marks=pytest.mark.slow)])
def test_what_is_looked_at_and_how_often_changes_nothing_that_is_learned(name, tmp_path):
    ends = []
    for every in (1, 7):
        more = {"logs.step_every": every, "logs.monitor_every": every % 2, "logs.views_every": every}
        ends.append(learned(train.train(quick(name, **more), tmp_path, device="cpu", say=lambda line: None)))
    assert ends[0].pop("config_hash") != ends[1].pop("config_hash")
    for part in ("method", "hard", "players", "generator", "rng"):
        assert same(ends[0][part], ends[1][part]), part


def test_the_page_of_runs_shows_the_sentences():
    from hardlab.workbook import report

    assert report._health(None) == "" and report._health([]) == "no alarm"
    assert (
        report._health([{"sentence": "At step 5, x."}, {"sentence": "At step 9, y."}]) == "At step 5, x. At step 9, y."
    )


def alarms_of(path, rule):
    return [a for a in run_folder.manifest(path)["health"] if a["rule"] == rule]


@pytest.mark.parametrize("name", ["simclr", pytest.param("moco", marks=pytest.mark.slow)])
def test_copies_in_a_folder_without_classes_are_said_to_be_false_negatives(name, tmp_path, count):
    rng = np.random.default_rng(0)
    for i in range(80):  # 16 pictures, five times each
        if i < 16:
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"{i}.png")
        else:
            Image.open(tmp_path / f"{i % 16}.png").save(tmp_path / f"{i}.png")
    more = {"data.fraction": 1.0, "data.held_out": 0.1, "batch_size": 16, "logs.monitor_every": 0}
    run = quick(name, data=f"folder:{tmp_path}", **more)
    path = train.train(run, tmp_path / "runs", device="cpu", say=lambda line: None)
    (alarm,) = alarms_of(path, "false negatives")
    assert alarm["step"] == health.PATIENCE and "have a copy in it" in alarm["sentence"]
    count("13 forced faults", 1)


def test_negatives_of_the_querys_class_are_said_where_they_have_nearly_all_weight(tmp_path, monkeypatch, count):
    run = quick("simclr")
    classes, own = F.one_hot(build.images(run).targets).float(), SimCLR.both

    def both(self, x, index):
        z, _ = own(self, x, index)
        z = F.normalize(z + 10 * F.pad(classes[index], (0, z.shape[1] - 10)), dim=1)
        return z, z

    monkeypatch.setattr(SimCLR, "both", both)
    path = train.train(run, tmp_path, device="cpu", say=lambda line: None)
    (alarm,) = alarms_of(path, "false negatives")
    assert alarm["step"] == health.PATIENCE and "of the query's own class (1" in alarm["sentence"]
    count("13 forced faults", 1)


def test_the_signals_of_false_negatives_are_a_loop_over_pairs_of_images():
    run = quick("simclr")
    session = train.open(run, device="cpu", say=lambda line: None)
    batch = next(session.batches())
    raw, targets = batch.raw.clone(), session.data.targets
    raw[3] = raw[9]
    raw[4] = (raw[9].int() + 12).clamp(0, 255).to(torch.uint8)  # brighter, so no copy
    out = train.step(session, batch._replace(raw=raw)).out
    q, t = out.q[0].detach(), out.t[1].detach()
    assert out.views.index.tolist() == batch.index.tolist()
    pictures = F.interpolate(raw.double(), (8, 8), mode="area") if raw.shape[2] > 8 else raw.double()
    copies, weights, chances = [], [], []
    for i in range(len(raw)):
        rest = [j for j in range(len(raw)) if j != i]
        copies.append(any(float((pictures[i] - pictures[j]).abs().mean()) < 1 for j in rest))
        at = {j: math.exp(float(q[i] @ t[j]) / run.method.options["temperature"]) for j in rest}
        mates = [j for j in rest if targets[batch.index[j]] == targets[batch.index[i]]]
        weights.append(sum(at[j] for j in mates) / sum(at.values()))
        chances.append(len(mates) / len(rest))
    signals = health.false_negatives(session.method, out, targets)
    assert sum(copies) == 2 and signals["copies"] == pytest.approx(2 / len(raw))
    assert signals["false_weight"] == pytest.approx(np.mean(weights), rel=1e-4)
    assert signals["false_chance"] == pytest.approx(np.mean(chances))
    unknown = health.false_negatives(session.method, out, torch.full_like(targets, -1))
    assert unknown == {"copies": signals["copies"]}


def test_learned_negatives_and_losses_without_negatives_have_no_false_ones():
    for name in ("adco", "simsiam"):
        session = train.open(quick(name), device="cpu", say=lambda line: None)
        out = train.step(session, next(session.batches())).out
        assert health.false_negatives(session.method, out, session.data.targets) == {}
