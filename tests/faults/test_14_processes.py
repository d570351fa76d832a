"""Row 14: a process that says that it is one of several, and was not started together with them, is refused."""

from __future__ import annotations

import pytest
from small_runs import small_run

from hardlab import machine, run_folder, train
from hardlab.evaluate.runner import evaluate_run
from hardlab.types import HardlabError


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_one_of_several_processes_trains_and_evaluates_nothing(name, tmp_path, monkeypatch, count):
    run = small_run("simclr", epochs=0)
    monkeypatch.setenv(name, "2")
    for start in (
        lambda: train.train(run, tmp_path, device="cpu", say=print),
        lambda: evaluate_run(tmp_path / run.id, ["knn"], device="cpu"),
    ):
        with pytest.raises(HardlabError, match=f"^{name}=2 in the environment .* set {name}=1"):
            start()
    assert list(tmp_path.iterdir()) == []
    count("14 one of several processes", 2)


@pytest.mark.parametrize("size", ["1", "", " 1 ", "0"])
def test_a_process_that_is_alone_by_its_environment_trains(size, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    run = small_run("simclr", epochs=0)
    path = train.train(run, tmp_path, device="cpu", say=lambda line: None)
    assert run_folder.manifest(path)["world_size"] == 1


def test_a_number_that_is_none_is_no_licence_to_train():
    machine.alone({})
    with pytest.raises(HardlabError, match="WORLD_SIZE=two"):
        machine.alone({"WORLD_SIZE": "two"})
