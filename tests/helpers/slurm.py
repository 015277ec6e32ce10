"""A SLURM of one node, as root and without systemd: its real daemons, in a folder of their own."""

import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from trainopt.runner.cluster.steps import free_port

T = TypeVar("T")
CPUS = 4  # of the node, for SLURM; the machine may have fewer
MEMORY_MIB = 4000
START_SECONDS = 60.0
WAIT_SECONDS = 300.0  # a machine with other work on it may need minutes until tasks run
# debug: the default partition; high: its jobs take the place of those of debug, which are queued again.
# cred_expire: without it a task that was queued again starts after two minutes.
CONFIG = """\
ClusterName=trainopt
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/socket/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
ReturnToService=2
SlurmdTimeout=20
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=60 State=UP PriorityTier=1
PartitionName=high Nodes={host} MaxTime=60 State=UP PriorityTier=10
"""


class Slurm:
    """The daemons, started while entered; commands of this process and its children reach them.

    Args:
        folder: for their files; all users must be able to enter the folders above it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.before = os.environ.get("SLURM_CONF")

    def __enter__(self) -> "Slurm":
        for name in ("state", "spool", "munge", "socket"):
            (self.folder / name).mkdir(parents=True)
        text = CONFIG.format(
            host=platform.node().partition(".")[0],
            folder=self.folder,
            controller_port=free_port(),
            node_port=free_port(),
            cpus=CPUS,
            memory=MEMORY_MIB,
        )
        (self.folder / "slurm.conf").write_text(text)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self.start_munge()
        run("slurmctld")
        self.start_node()
        wait_until(lambda: "idle" in run("sinfo", "--noheader", "--format=%T"), START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, subprocess.SubprocessError):
            run("scancel", "--user=root")
        for name in ("slurmd.pid", "slurmctld.pid", "munged.pid"):
            with suppress(OSError, ValueError):
                os.kill(int((self.folder / name).read_text()), signal.SIGTERM)
        if self.before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = self.before

    def start_munge(self) -> None:
        """Starts the daemon that signs messages, with a key of its own."""
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        for path in (key.parent, key, self.folder / "socket"):
            shutil.chown(path, "munge", "munge")
        key.parent.chmod(0o700)
        (self.folder / "socket").chmod(0o755)
        files = {"key-file": "munge/key", "socket": "socket/munge", "log-file": "munge/log", "seed-file": "munge/seed"}
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        pid = f"--pid-file={self.folder / 'munge/pid'}"
        run("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", *options, pid)
        shutil.copy(self.folder / "munge/pid", self.folder / "munged.pid")

    def start_node(self) -> None:
        """Starts the daemon of the node."""
        run("slurmd")

    def kill_node(self) -> None:
        """Kills the daemon of the node, and the processes of its tasks, as when a machine is lost."""
        os.kill(int((self.folder / "slurmd.pid").read_text()), signal.SIGKILL)
        for pid in pids_with(f"SLURM_CONF={os.environ['SLURM_CONF']}", "SLURM_JOB_ID="):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]:
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("slurmstepd"):
                    os.kill(pid, signal.SIGKILL)


def pids_with(*parts: str) -> list[int]:
    """Returns the numbers of the processes whose environment has all these parts."""
    pids = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            text = (folder / "environ").read_bytes().decode(errors="replace")
            if all(part in text for part in parts) and int(folder.name) != os.getpid():
                pids.append(int(folder.name))
    return pids


def run(*command: str) -> str:
    """Returns what a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def wait_until(value_of: Callable[[], T], seconds: float = WAIT_SECONDS) -> T:
    """Waits until a value is true, and returns it; fails after a number of seconds."""
    until = time.monotonic() + seconds
    while not (value := value_of()):
        assert time.monotonic() < until, f"not within {seconds:.0f} s"
        time.sleep(0.25)
    return value


def skip_without_slurm() -> None:
    """Skips the test where SLURM's daemons cannot be started."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None:
        pytest.skip("no SLURM here: apt-get install slurm-wlm munge")
    if os.geteuid():
        pytest.skip("SLURM's daemons are started as root")
