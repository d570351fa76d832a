"""A one-node Slurm on loopback for tests: its state, configuration and key are in a folder of its own.

`python tests/helpers/slurm.py` starts one and prints what a shell needs to use it; Ctrl-C or Ctrl-D ends it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODE = "loopback"
# Slurm's own processes may live anywhere; what they need to run is here. A job's signals reach its steps through the
# tree of processes, as no cgroup is needed for that. The node claims 8 processors and 2 GPUs, whatever the machine has.
_SLURM_CONF = """\
ClusterName=hardlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={worker}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
GresTypes=gpu
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000 Gres=gpu:2
PartitionName=short Nodes={node} Default=YES MaxTime=60 DefaultTime=10 State=UP PriorityTier=1
PartitionName=urgent Nodes={node} MaxTime=60 State=UP PriorityTier=2
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def one_node() -> Iterator[dict[str, str]]:
    """A Slurm that runs; gives the environment in which its commands talk to it.

    A process of its own keeps it, and ends all that it started when this process ends, however that happens.
    """
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as keeper:
        assert keeper.stdin is not None and keeper.stdout is not None
        line = keeper.stdout.readline()
        if not line:
            raise RuntimeError("Slurm has not started; the reason is above.")
        yield os.environ | dict(word.split("=", 1) for word in line.split()[1:])
        keeper.stdin.close()


@contextmanager
def _daemons() -> Iterator[dict[str, str]]:
    with ExitStack() as after:
        folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # the path of a socket may have 107 characters
        after.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)  # which munge wants for its socket
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        host = socket.gethostname().partition(".")[0]
        controller, worker = _free_ports(2)
        conf = folder / "slurm.conf"
        conf.write_text(_SLURM_CONF.format(folder=folder, host=host, node=NODE, controller=controller, worker=worker))
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")  # none has to work
        # the plugin's jobs start `srun` without SLURM_CONF, which only this Slurm needs
        srun = folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        env = os.environ | {"SLURM_CONF": str(conf), "PATH": f"{srun.parent}:{os.environ['PATH']}"}
        files = [f"--{kind}-file={folder}/munged.{kind}" for kind in ("log", "pid", "seed")]
        munge = ["munged", "--foreground", f"--socket={folder}/munge.socket", f"--key-file={key}", *files]
        after.callback(_start(munge, folder, env))
        _wait(lambda: (folder / "munge.socket").exists(), folder)
        for command in (["slurmctld", "-D", "-f", str(conf)], ["slurmd", "-D", "-N", NODE, "-f", str(conf)]):
            after.callback(_start(command, folder, env))
        _wait(lambda: _asked(env, "sinfo", "--noheader", "--format=%T") == "idle", folder)
        after.callback(_end_jobs, env)
        yield env


def _start(command: list[str], folder: Path, env: dict[str, str]) -> Callable[[], None]:
    """Start a daemon; returns what ends it."""
    with open(folder / f"{command[0]}.out", "w") as sink:
        daemon = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )

    def end() -> None:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    return end


def _end_jobs(env: dict[str, str]) -> None:
    """End all jobs, whose processes would outlive the daemons."""
    until = time.monotonic() + 40
    while _asked(env, "squeue", "--noheader") and time.monotonic() < until:
        _asked(env, "scancel", "--user=root")
        _asked(env, "scancel", "--user=root", "--signal=KILL", "--full")
        time.sleep(0.5)


def _asked(env: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return " ".join(sorted(set(done.stdout.split())))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def _wait(ready: Callable[[], bool], folder: Path) -> None:
    until = time.monotonic() + 60
    while not ready():
        if time.monotonic() > until:
            logs = "\n".join(f"{f.name}:\n{f.read_text()[-1500:]}" for f in sorted(folder.glob("*.out")))
            raise RuntimeError(f"Slurm has not started.\n{logs}")
        time.sleep(0.2)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit())
    with _daemons() as env:
        print(f"export SLURM_CONF={env['SLURM_CONF']} PATH={env['PATH']}", flush=True)
        sys.stdin.read()
