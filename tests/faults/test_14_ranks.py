"""Row 14, with several processes: they die, are stopped, and meet over a network."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from resuming import learned, rows, views
from small_runs import small_run

from hardlab import build, config, run_folder, stopping, train
from hardlab.workbook import parallel

DYING = Path(__file__).parents[1] / "helpers" / "dying.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval", "0.1"]
QUIET = {"device": "cpu", "say": lambda line: None}


def words(run, runs_dir, *more):
    """What each process of a run is started with."""
    whole = json.dumps(run.model_dump(mode="json"))
    return ["-m", "hardlab.train", whole, "--runs", str(runs_dir), "--device", "cpu", "--threads", "1", *more]


def ended(path):
    about = run_folder.manifest(path)
    return about["state"], about["steps_done"], about["world_size"]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_torchrun_starts_all_again_and_one_process_goes_on(tmp_path, count):
    """It dies in the second epoch, is started again from the first one's checkpoint, dies again, and stays dead."""
    build.load(DYING)
    options = {"folder": str(tmp_path), "first": 5, "second": 6}
    run = small_run("moco", hard=[{"name": "dying", "options": options}])
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    torchrun = subprocess.Popen([*command, *words(run, tmp_path, "--code", str(DYING))], stderr=subprocess.PIPE)
    seen: set[psutil.Process] = set()
    last = tmp_path / "died-6"
    while not last.exists():
        assert torchrun.poll() is None
        seen.update(psutil.Process(torchrun.pid).children(recursive=True))
        time.sleep(0.05)
    died = time.monotonic()
    said = torchrun.communicate()[1].decode()
    assert torchrun.returncode == 1 and time.monotonic() - died < 30
    assert len(seen) >= 4 and not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in seen)
    assert f"{run.id}: continues at step 4 of 8." in said and "has ended." in said
    about = run_folder.manifest(tmp_path / run.id)
    assert about["state"] == "failed" and "has ended" in about["error"] and about["backend"] == "gloo"
    path = train.train(run, tmp_path, **QUIET)
    whole = train.train(run, tmp_path / "whole", **QUIET)
    assert ended(path) == ("done", 8, 1)
    assert parallel.difference(learned(path)["method"], learned(whole)["method"]) < 1e-3
    assert [row["step"] for row in rows(path)] == [row["step"] for row in rows(whole)]
    assert views(path).drop(["loss"]).equals(views(whole).drop(["loss"]))
    count("14 a process of several is killed", 2)


@pytest.mark.slow
def test_a_signal_to_the_command_stops_all_processes_and_one_goes_on(tmp_path, count):
    sizes = [
        "data=digits",
        "data.fraction=0.3",
        "batch_size=16",
        "epochs=3",
        "backbone.width=4",
        "precision=fp32",
        "logs.step_every=1",
    ]
    command = [sys.executable, "-c", "from hardlab.cli import main; main()", "pretrain", "simclr-hvs", *sizes]
    command += ["--devices", "2", "--device", "cpu", "--threads", "1", "--runs", str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("*/metrics.jsonl")):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == stopping.STOPPED
    (log,) = tmp_path.glob("*/metrics.jsonl")
    assert run_folder.manifest(log.parent)["state"] == "stopped" and learned(log.parent)["step"] > 0
    run = config.read_run(log.parent)[0]
    path = train.train(run, tmp_path, **QUIET)
    logged = [row["step"] for row in run_folder.metrics(path, "step")]
    assert logged == list(range(1, run_folder.manifest(path)["steps_done"] + 1))
    count("14 several processes are stopped", 1)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def namespaces():
    """Two network namespaces that see each other alone: (how to run a command in each, their addresses), or None."""
    names, addresses = [f"hl{os.getpid()}{end}" for end in "ab"], ["10.203.7.1", "10.203.7.2"]
    set_up = [["ip", "netns", "add", name] for name in names]
    set_up.append(["ip", "link", "add", "v0", "netns", names[0], "type", "veth", "peer", "v0", "netns", names[1]])
    for name, address in zip(names, addresses, strict=True):
        inside = ["ip", "-n", name]
        set_up += [[*inside, "addr", "add", f"{address}/24", "dev", "v0"], [*inside, "link", "set", "v0", "up"]]
        set_up.append([*inside, "link", "set", "lo", "up"])
    try:
        for step in set_up:
            subprocess.run(step, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        remove(names)
        return None
    return names, addresses


def remove(names):
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
def test_two_agents_on_two_addresses_meet_and_train_one_run(tmp_path, count):
    """In two network namespaces where the user may make them, otherwise on one machine's loopback."""
    made = namespaces()
    names, addresses = made or ([], ["127.0.0.1", "127.0.0.1"])
    run = small_run("moco", epochs=1)
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    meet += ["--rdzv-endpoint", f"{addresses[0]}:{29400 if made else free_port()}"]
    agents = []
    try:
        for i, address in enumerate(addresses):
            prefix = ["ip", "netns", "exec", names[i]] if made else []
            surroundings = os.environ | {"GLOO_SOCKET_IFNAME": "v0" if made else "lo"}
            host = ["--rdzv-conf", f"is_host={int(i == 0)}", "--local-addr", address]
            command = [*prefix, *TORCHRUN, *meet, *host, *words(run, tmp_path)]
            agents.append(subprocess.Popen(command, env=surroundings, stderr=subprocess.PIPE, text=True))
        said = [agent.communicate(timeout=300)[1] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
        remove(names)
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert ended(tmp_path / run.id) == ("done", 4, 2)
    assert sum("trains in 2 processes" in text for text in said) == 1
    whole = train.train(run, tmp_path / "whole", **QUIET)
    assert parallel.difference(learned(tmp_path / run.id)["method"], learned(whole)["method"]) < 1e-3
    count("14 two agents in namespaces" if made else "14 two agents on loopback", 1)
