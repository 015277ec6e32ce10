"""A forked process leaves nothing of joblib's behind."""

import subprocess
import sys

import pytest

SCRIPT = """
import time

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor

from trainopt.runner.system.isolation import run_isolated


def work():
    with parallel_config("loky", idle_worker_timeout=0.2):
        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(2))
    {then}
    return 3


assert run_isolated(work) == 3
"""


@pytest.mark.slow
@pytest.mark.parametrize("then", ["pass", "time.sleep(2)", "get_reusable_executor(max_workers=1, kill_workers=True)"])
def test_joblib_warns_of_no_leaks(then):
    """Its workers have just worked, ended long before, or were replaced."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT.format(then=then)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
