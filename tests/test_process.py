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


def test_in_a_notebook_curves_stand_for_progress_lines_and_alarms_are_printed(tmp_path, monkeypatch):
    class Display:
        """Stands in for the handle of a cell's output."""

        def __init__(self, first, display_id):
            self.shown = [repr(first)]

        def update(self, later):
            self.shown.append(repr(later))

    handles = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: handles.append(Display(*a, **k)) or handles[-1])
    run = quick(epochs=1)
    curves = process._Curves(run, tmp_path)

    def lines():
        yield f"{run.id} | epoch 1/1, step 1/4 | loss 1.0\n"
        train.train(run, tmp_path, say=lambda line: None)
        yield "collapse. All outputs are one point.\n"

    assert list(curves.beside(lines())) == ["collapse. All outputs are one point.\n"]
    (handle,) = handles
    assert "not started" in handle.shown[0] and "done" in handle.shown[-1]


def test_progress_is_printed_where_there_is_no_notebook_or_plain_lines_are_wanted(monkeypatch):
    assert not process._in_notebook()
    monkeypatch.setattr("IPython.get_ipython", lambda: type("Shell", (), {"kernel": 1})())
    assert process._in_notebook()
    monkeypatch.setenv("HARDLAB_PLAIN", "1")
    assert not process._in_notebook()


MANY_STEPS = {"data.fraction": 1.0, "batch_size": 64, "epochs": 3}  # so many that a signal comes in time, each short


@pytest.mark.slow
def test_each_signal_ends_the_process_with_75_and_the_same_command_goes_on_exactly(tmp_path):
    run = quick(**MANY_STEPS)
    command = [sys.executable, "-m", "hardlab.process", "--runs", str(tmp_path), "--threads", "1"]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        child.stdin.write(json.dumps(run.model_dump(mode="json")))
        child.stdin.close()
        while (run_folder.manifest(tmp_path / run.id) or {}).get("state") != "running":
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(number)
        assert child.wait(60) == stopping.STOPPED
        assert run_folder.manifest(tmp_path / run.id)["state"] == "stopped"
    whole = process.launch(run, tmp_path / "whole", threads=1)
    assert same(learned(process.launch(run, tmp_path, threads=1)), learned(whole))
