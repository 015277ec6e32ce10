"""Small studies: one that is reproduced, and one of runs that are made up, for its report."""

import json
from pathlib import Path

from helpers.fixtures import made_up_sweep
from trainopt.runner.studies.plan import SweepState
from trainopt.runner.studies.report import write_study_report
from trainopt.runner.studies.schema import Claim, Scale, Study, StudyFigure, StudySweep, StudyTable

ADAM, SGD = ({"optimizer": name} for name in ("adam", "sgd"))
NO_MNIST = "mnist is missing: put mnist.npz into DIR"
RUN = ["model=mlp", "logger=none"]
TINY = {
    "title": "Tiny",
    "source": "nobody, 2020",
    "scales": {
        "smoke": {"about": "an MLP on digits", "minutes": 2},
        "small": {"about": "on MNIST", "data": ["mnist"]},
    },
    "sweeps": {
        "first": {"typed": {"smoke": [*RUN, "duration=4steps", "run.name=first"]}},
        "second": {
            "after": ["first"],
            "typed": {
                "smoke": [
                    *RUN,
                    "duration=0.5epochs",
                    "seed=0,1",
                    "model.weights={sweeps}/first/first/checkpoints/last.pt",
                ]
            },
        },
        "other": {"typed": {"small": [*RUN, "duration=2steps", "data=mnist"]}},
        "behind": {"after": ["other"], "typed": {"small": [*RUN, "duration=2steps"]}},
    },
}
OURS = ("--config-dir", "mine", "--launcher", "basic")


def states(tmp_path: Path, name: str = "tiny", scale: str = "smoke") -> dict[str, list]:
    """Returns [state, reason] of each sweep, as the double of the report wrote them."""
    return json.loads((tmp_path / f"outputs/studies/{name}/{scale}/states.json").read_text())


def times(folder: Path) -> dict[Path, int]:
    """Returns when each file below a folder was last changed, in nanoseconds."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def runs():
    """Adam, which is better by two points than SGD, with four seeds each."""
    return [
        {"choices": choices, "seed": seed, "top1": 82.0 + 0.1 * seed if choices == ADAM else 80.0 - 0.1 * seed}
        for choices in (ADAM, SGD)
        for seed in range(4)
    ]


def study_of(**parts):
    values = {
        name: {"sweep": "methods", "where": {"optimizer": name}, "value": "final.top1"} for name in ("adam", "sgd")
    }
    values["later"] = {"sweep": "later", "value": "final.top1"}
    claims = [
        Claim("Adam ends above SGD", "table 1", "above", ["adam", "sgd"]),
        Claim("SGD ends above Adam", "section 2 | <b>", "above", ["sgd", "adam"]),
        Claim("Adam on MNIST ends above 90 %", "table 2", "above", ["later", 90.0]),
        Claim("All differs at full size", "table 3", "above", ["adam", "sgd"], scales=["paper"]),
        Claim("SGD ends above 79 %", "our question", "above", ["sgd", 79.0], ours=True),
    ]
    rows = {"Adam": {"where": ADAM}, "SGD": {"where": SGD}}
    columns = {"digits": {"sweep": "methods"}, "MNIST": {"sweep": "later"}}
    reference = {"Adam": {"digits": 82.3, "MNIST": 99.0}, "SGD": {"digits": [90.0, 0.1]}}
    metric = {"value": "final.top1"}
    tables = [
        StudyTable("final top-1 (%)", "table 1", rows, columns, metric, reference, 0.1, ["smoke"]),
        StudyTable(
            "lowest loss",
            "table 4",
            rows,
            {"digits": {"sweep": "methods"}},
            {"value": "lowest_loss.value"},
            {"Adam": {"digits": 0.2}},
            differs={"smoke": "digits instead of ImageNet"},
            labels={"smoke": {"Adam": "Adam on digits (for ImageNet)"}},
        ),
        StudyTable("on MNIST", "table 5", rows, {"MNIST": {"sweep": "later"}}, metric, {"Adam": {"MNIST": 1.0}}),
    ]
    figures = [
        StudyFigure("Accuracy", "figure 7", "methods", "epochs", {"kind": "test", "column": "top1"}, by=["optimizer"]),
        StudyFigure(
            "Time and accuracy",
            "figure 8",
            "methods",
            {"row": {"kind": "test", "column": "top1", "reach": 60, "axis": "steps"}},
            {"value": "final.top1"},
            by=["optimizer"],
            log=["x", "y"],
        ),
        StudyFigure("On MNIST", "figure 9", "later", "steps", {"kind": "test", "column": "top1"}),
    ]
    scales = {"smoke": Scale("an mlp on digits, 4 seeds"), "paper": Scale("all of it")}
    sweeps = {
        "methods": StudySweep({"smoke": ["optimizer=adam,sgd", "model.weights={sweeps}/a.pt"], "paper": []}),
        "later": StudySweep({"smoke": ["data=mnist"]}),
    }
    parts = {"values": values, "claims": claims, "tables": tables, "figures": figures, **parts}
    return Study("made_up", "Adam & SGD", "Nobody, Something, 2020", scales, sweeps, **parts)


def report_of(folder, study=None, made=None, state="done", searched=None):
    """Write a report of synthetic runs; return (result, report.md)."""
    there = folder / "made_up" / "smoke"
    if not (there / "sweeps").exists():
        made_up_sweep(there / "sweeps/methods", runs() if made is None else made, searched)
    sweeps = {
        "methods": SweepState(there / "sweeps/methods", state, None if state == "done" else "8 of 8 runs are not done"),
        "later": SweepState(there / "sweeps/later", "not_run", NO_MNIST),
    }
    result = write_study_report(study or study_of(), "smoke", there, sweeps)
    return result, (there / "report.md").read_text()
