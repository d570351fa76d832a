"""Networks that are compiled: the same numbers to rounding, the same names, and only inside a step."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
import torch._dynamo
import torch._functorch.config
from resuming import learned, same, whole_and_parts
from shallow import Shallow
from small_runs import small_run
from torch._dynamo.backends.registry import lookup_backend

from hardlab import compatible, config, execution, nets, recipes, run_folder, train
from hardlab.errors import HardlabError
from hardlab.evaluate.runner import evaluate_run


@pytest.fixture
def traced(monkeypatch):
    """Networks are traced, forward and backward, but not compiled, which is quick; a list with an entry each time."""
    graphs = []
    trace = lookup_backend("aot_eager")

    def backend(graph, inputs):
        graphs.append(graph)
        return trace(graph, inputs)

    torch.compiler.reset()
    monkeypatch.setattr(execution, "BACKEND", backend)
    return graphs


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def opened(name, way, device="cpu"):
    run = small_run(name, execution=way).with_({"parent": None})
    return train.open(run, device=device, say=lambda line: None)


def steps_of(session, count=3):
    batches = session.batches()
    return [train.step(session, next(batches)) for _ in range(count)]


def terms(steps):
    return [{name: float(x) for name, x in step.means().items()} for step in steps]


COMPOSITIONS = {recipes.recipe(name, "smoke").composition: name for name in reversed(recipes.RECIPES)}


def losses(path):
    return [row["loss"] for row in run_folder.metrics(path, "step")]


def test_a_compiled_run_learns_what_the_eager_one_does_goes_on_where_it_stopped_and_is_evaluated_as_it_is_written(
    traced, tmp_path, monkeypatch
):
    eager = train.train(small_run("simsiam-hvs"), tmp_path, device="cpu", say=lambda line: None)
    assert traced == []
    run = small_run("simsiam-hvs", execution="compile", **{"logs.monitor_every": 1})
    whole, parts = whole_and_parts(run, tmp_path, monkeypatch, 3)
    assert losses(whole) == pytest.approx(losses(eager), rel=1e-5) and losses(parts) == losses(whole)
    assert same(learned(parts)["method"], learned(whole)["method"])
    assert_close(learned(whole)["method"], learned(eager)["method"])
    graphs = len(traced)
    # backbone, projector and predictor, in a step and without gradient in its selection; torch 2.11 leaves its own
    # containers, as the last two are, uncompiled
    assert graphs == (2 if torch.__version__.startswith("2.11.") else 2 * 3)
    evaluate_run(whole, ["knn"], device="cpu")
    session = train.reopen(whole, 4)
    steps_of(session, 1)
    for net in (session.method.backbone, copy.deepcopy(session.method.backbone)):
        net(torch.zeros(5, 3, 8, 8))
    assert len(traced) == graphs  # none for monitor, protocol and copies


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSITIONS.values())
def test_every_composition_takes_the_same_steps_compiled(name, traced, monkeypatch):
    monkeypatch.setattr(nets, "Tiny", Shallow)  # the whole one is compiled above
    taken = {}
    for way in ("eager", "compile"):
        session = opened(name, way)
        session.method.on_epoch(session.at, session.data, session.look)
        taken[way] = terms(steps_of(session)), session.method.state_dict()
    assert traced
    for one, other in zip(taken["compile"][0], taken["eager"][0], strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
    assert_close(taken["compile"][1], taken["eager"][1])


def test_what_two_players_of_one_graph_need_of_torch_is_set_for_their_steps_alone(traced, monkeypatch):
    monkeypatch.setattr(nets, "Tiny", Shallow)
    donated, play = [], train.players.play

    def watched(*args):
        donated.append(torch._functorch.config.donated_buffer)
        play(*args)

    monkeypatch.setattr(train.players, "play", watched)
    before = torch._functorch.config.donated_buffer
    for name in ("stn-affine", "simsiam"):
        steps_of(opened(name, "compile"), 2)
    assert before and donated == [False, False, True, True]
    assert torch._functorch.config.donated_buffer == before


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_torchs_own_compiler_gives_the_losses_of_the_eager_run(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what was compiled for other kernels gives NaN
    monkeypatch.setattr(nets, "Tiny", Shallow)
    torch.compiler.reset()
    eager, ours = (terms(steps_of(opened("simsiam", way))) for way in ("eager", "compile"))
    assert [t["base"] for t in ours] == pytest.approx([t["base"] for t in eager], rel=1e-4)


def test_an_execution_is_part_of_a_runs_name_and_the_usual_one_is_not():
    usual = recipes.recipe("ppcl", "smoke")
    assert usual.with_({"execution": "eager", "parent.execution": "eager"}).id == usual.id
    ids = {usual.with_({"execution": way}).id for way in ("eager", "compile", "graphs")}
    assert len(ids) == 3 and usual.id == "ppcl-smoke-s0-" + usual.hash[:10]
    with pytest.raises(HardlabError, match=r"execution='fast': .*'eager', 'compile' or 'graphs'"):
        usual.with_({"execution": "fast"})


def test_where_an_execution_is_not_possible_a_sentence_says_so(monkeypatch):
    with pytest.raises(HardlabError, match="execution=graphs replays CUDA graphs, and this run is on 'cpu'"):
        train.open(small_run("simsiam", execution="graphs"), device="cpu")
    with pytest.raises(HardlabError, match="trains in one process, and these are 2"):
        execution.check("compile", torch.device("cpu"), 2)
    with pytest.raises(HardlabError, match=r"does not go with backbone\.recompute=true"):
        compatible.check(small_run("simsiam", execution="compile", **{"backbone.recompute": True}))

    def broken(graph, inputs):
        raise RuntimeError("no compiler on this machine\nand a second line")

    torch.compiler.reset()
    monkeypatch.setattr(execution, "BACKEND", broken)
    session = train.open(small_run("simsiam", execution="compile"), device="cpu", say=lambda line: None)
    with pytest.raises(HardlabError, match=r"execution=compile: torch cannot compile the networks here: .*no compiler"):
        train.step(session, next(session.batches()))
    assert config.make(session.run.model_dump(mode="json")) == session.run
    assert session.method.backbone(torch.zeros(2, 3, 8, 8)).shape == (2, session.method.features)  # eager again


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["compile", "graphs"])
@pytest.mark.parametrize("name", ["simsiam-hvs", "moco", "adco", "dino", "hexa-moco"])
def test_on_a_gpu_compiled_steps_are_those_of_the_eager_run_and_wait_nowhere(name, way):
    torch.compiler.reset()
    taken = {}
    for execution_ in ("eager", way):
        session = opened(name, execution_, "cuda")
        taken[execution_] = terms(steps_of(session, 4))
        batches = session.batches()
        torch.cuda.set_sync_debug_mode("error")
        try:
            last = [train.step(session, next(batches)) for _ in range(2)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        taken[execution_] += terms(last[-1:])
    for one, other in zip(taken[way], taken["eager"], strict=True):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-3)
