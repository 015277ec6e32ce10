"""Every study that comes along: its file can be read, and every sweep of every scale composed."""

from dataclasses import replace

import pytest

from trainopt.runner.studies.plan import StudyPlan
from trainopt.runner.studies.schema import find_studies, read_study
from trainopt.runner.sweeps import jobs
from trainopt.runner.sweeps.compose import Composer

STUDIES = find_studies(None)
SCALED = [(name, scale) for name, path in STUDIES.items() for scale in read_study(path).scales]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_what_it_is_and_has_a_smallest_scale(name):
    study = read_study(STUDIES[name])
    assert STUDIES[name].read_text().startswith("#")
    assert study.scales["smoke"].minutes is not None
    assert not study.scales["smoke"].data  # it runs anywhere


@pytest.mark.parametrize("name", STUDIES)
def test_every_sweep_of_the_smallest_scale_is_composed_with_its_first_job(name, tmp_path, monkeypatch):
    combinations = jobs.combinations
    monkeypatch.setattr(jobs, "combinations", lambda config: combinations(config)[:1])
    study = read_study(STUDIES[name])
    sweeps = {
        name: replace(sweep, typed={"smoke": [*typed, *(["hydra.sweeper.exponents=[1]"] if is_search(typed) else [])]})
        for name, sweep in study.sweeps.items()
        if (typed := sweep.typed.get("smoke"))
    }
    check(replace(study, sweeps=sweeps), "smoke", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_every_sweep_of_every_scale_is_composed(name, scale, tmp_path, monkeypatch):
    check(read_study(STUDIES[name]), scale, tmp_path, monkeypatch)


def is_search(typed):
    return any(override.startswith("hydra/sweeper=") for override in typed)


def check(study, scale, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINOPT_DATA", str(tmp_path))  # nothing lies there
    plan = StudyPlan(study, scale, tmp_path / "out", Composer(None), [])
    assert plan.sweeps
    for planned in plan.sweeps.values():
        assert planned.jobs
        assert len({job["folder"] for job in planned.jobs}) == len(planned.jobs)
