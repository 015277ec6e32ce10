"""A study in a scratch folder, reproduced without its report."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from helpers.studies import TINY


@pytest.fixture
def no_report(monkeypatch):
    """In place of the report: it writes down what became of the sweeps."""

    def write(study, scale, folder, sweeps):
        states = {name: [s.state, s.reason] for name, s in sweeps.items()}
        (folder / "states.json").write_text(json.dumps(states))
        return SimpleNamespace(lines=[f"report of {study.name} at {scale}"])

    double = ModuleType("trainopt.runner.studies.report")
    double.write_study_report = write
    monkeypatch.setitem(sys.modules, double.__name__, double)


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("TRAINOPT_DATA", str(tmp_path / "data"))


@pytest.fixture
def study(tmp_path):
    """Write a study of one's own, with any part of TINY replaced."""

    def write(name="tiny", **parts):
        folder = tmp_path / "mine/study"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(TINY | parts, sort_keys=False))

    return write
