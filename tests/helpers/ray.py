"""A Ray of two nodes on this machine, with ports and a folder of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec

import pytest

from helpers.slurm import pids_with
from trainopt.runner.cluster.steps import free_port

CPUS = 1  # of each node
MARK = "TRAINOPT_TEST_RAY"  # a variable that all processes of the cluster have
LOCAL = ("--disable-usage-stats", "--object-store-memory=100000000")


class RayCluster:
    """The daemons, started while entered.

    Attributes:
        address: as `cluster.address` takes it.
    """

    def __enter__(self) -> "RayCluster":
        self.folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a longer path is too long for sockets
        self.port, dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{dashboard}"
        ports = [f"--port={self.port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
        self._start("head", "--head", *ports, f"--temp-dir={self.folder}")
        self.start_node()
        return self

    def __exit__(self, *_: object) -> None:
        self._kill(f"{MARK}={self.folder}/")
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_node(self) -> None:
        """Starts the second node, which alone has the resource `second`."""
        self._start("node", f"--address=127.0.0.1:{self.port}", '--resources={"second": 1}')

    def kill_node(self) -> None:
        """Kills all processes of the second node, as when a machine is lost."""
        self._kill(f"{MARK}={self.folder}/node")

    def _start(self, name: str, *options: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--num-cpus={CPUS}", *LOCAL, *options]
        agent = [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
        environment = {**os.environ, MARK: f"{self.folder}/{name}", "RAY_worker_niceness": "0"}
        subprocess.run([*command, *agent], env=environment, check=True, capture_output=True, timeout=120)

    @staticmethod
    def _kill(mark: str) -> None:
        until = time.monotonic() + 10.0
        while (pids := pids_with(mark)) and time.monotonic() < until:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def skip_without_ray() -> None:
    """Skips the test where Ray is not installed."""
    if find_spec("ray") is None:
        pytest.skip("no Ray here: pip install 'trainopt[ray]'")
