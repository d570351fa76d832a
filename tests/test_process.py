"""Training in a process of its own."""

import json
import signal
import subprocess
import sys
import time

import pytest
from resuming import learned, quick, same

from hardlab import process, run_folder, stopping, train
from hardlab.types import HardlabError


def test_a_finished_run_is_found_without_starting_a_process(tmp_path, monkeypatch):
    path = train.train(quick(epochs=0), tmp_path, say=lambda line: None)
    monkeypatch.setattr(process.subprocess, "Popen", None)
    assert process.launch(quick(epochs=0), tmp_path) == path


@pytest.mark.slow
def test_what_went_wrong_in_the_process_is_told_where_it_was_started(tmp_path, capfd):
    with pytest.raises(HardlabError, match=r"failed \(exit 1\): hardlab: batch_size=100000 is larger"):
        process.launch(quick(batch_size=100_000), tmp_path)
    assert "batch_size=100000" in capfd.readouterr().out


MANY_STEPS = {"data.fraction": 1.0, "batch_size": 64, "epochs": 4}  # so many that a signal comes in time, each short


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    return learned(process.launch(quick(**MANY_STEPS), tmp_path_factory.mktemp("whole"), threads=1))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_process_with_75_and_the_same_command_goes_on_exactly(number, tmp_path, never_stopped):
    run = quick(**MANY_STEPS)
    command = [sys.executable, "-m", "hardlab.process", "--runs", str(tmp_path), "--threads", "1"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    child.stdin.write(json.dumps(run.model_dump(mode="json")))
    child.stdin.close()
    while run_folder.manifest(tmp_path / run.id) is None:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(number)
    assert child.wait(60) == stopping.STOPPED
    assert run_folder.manifest(tmp_path / run.id)["state"] == "stopped"
    assert same(learned(process.launch(run, tmp_path, threads=1)), never_stopped)
