"""Every shipped study: its file can be read, and each of its sweeps composed, at each of its scales."""

import pytest

from trainopt.runner.search import lr_heuristic
from trainopt.runner.search.compose import Composer
from trainopt.runner.studies.plan import StudyPlan
from trainopt.runner.studies.schema import find_studies, read_study
from trainopt.runner.sweeps import jobs

STUDIES = find_studies()
SCALED = [(name, scale) for name, path in STUDIES.items() for scale in read_study(path).scales]

# of many sweeps; those of all are composed below
MANY = dict.fromkeys(["zorca2020", "menssen2019", "mandatelli2018"], pytest.mark.slow)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_what_it_is_and_has_a_smallest_scale(name):
    study = read_study(STUDIES[name])
    assert STUDIES[name].read_text().startswith("#")
    assert study.scales["smoke"].minutes is not None
    assert not study.scales["smoke"].data  # it runs anywhere
    texts = [claim.text for claim in study.claims]
    assert sorted(set(texts)) == sorted(texts)  # the command prints them without their numbers


@pytest.mark.parametrize("name", [pytest.param(n, marks=MANY.get(n, ())) for n in STUDIES])
def test_every_sweep_of_the_smallest_scale_is_composed_with_its_first_job(name, tmp_path, monkeypatch):
    compose_some(monkeypatch, lambda batch: batch[:1])
    check(name, "smoke", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_every_sweep_of_every_scale_is_composed(name, scale, tmp_path, monkeypatch):
    """At larger scales than the smallest, of thousands of jobs, with one of each value."""
    if scale != "smoke":
        compose_some(monkeypatch, each_value)
    check(name, scale, tmp_path, monkeypatch)


def compose_some(monkeypatch, choose):
    """Lets sweeps compose and check only those jobs of a batch that a function chooses."""
    plan_jobs = jobs.plan_jobs
    for module in (jobs, lr_heuristic):
        monkeypatch.setattr(module, "plan_jobs", lambda config, batch: plan_jobs(config, choose(batch)))


def each_value(batch):
    """The jobs of a batch that are the first with one of their values."""
    seen, chosen = set(), []
    for overrides in batch:
        if not seen.issuperset(overrides):
            seen.update(overrides)
            chosen.append(overrides)
    return chosen


def check(name, scale, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINOPT_DATA", str(tmp_path))  # nothing lies there
    plan = StudyPlan(read_study(STUDIES[name]), scale, tmp_path / "out", Composer(), [])
    assert plan.sweeps
    for planned in plan.sweeps.values():
        assert planned.jobs
        assert len({job["folder"] for job in planned.jobs}) == len(planned.jobs)
