"""The plan of a sweep, which several processes may change at a time."""

import os

from trainopt.runner.records.job_table import read_jobs, write_plan

PROCESSES, TIMES = 3, 15


def test_processes_that_add_jobs_to_a_plan_lose_none(tmp_path):
    write_plan(tmp_path, ["seed=0,1"], [], workers=1)
    children = []
    for process in range(PROCESSES):
        child = os.fork()
        if not child:
            try:
                for number in range(TIMES):
                    write_plan(tmp_path, ["seed=0,1"], [{"folder": f"{process}-{number}", "overrides": []}], workers=1)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert {job["folder"] for job in read_jobs(tmp_path)} == {
        f"{p}-{t}" for p in range(PROCESSES) for t in range(TIMES)
    }
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
