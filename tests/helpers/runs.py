"""Runs: trained below the command line, stopped, read, compared; and in float64, before their first step."""

import json
import os
import signal
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from helpers.cli import built, prepared
from helpers.references import closure_of
from trainopt.runner.state.progress import Progress
from trainopt.runner.system.display import Display
from trainopt.runner.training.execute import start

TIMES = ("train_seconds", "wall_seconds", "seconds", "peak_memory_bytes")


def rows(folder: Path, kind: str | None = None) -> list[dict]:
    """Returns the records in metrics.jsonl, all that count or those of a kind."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if (row["kind"] == kind if kind else row["kind"] != "void")]


def timeless(value):
    """Returns a value without what differs between two runs of the same thing."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def summary(folder: Path) -> dict:
    """Returns the content of summary.json."""
    return json.loads((folder / "summary.json").read_text())


def tournament_result(folder: Path) -> dict:
    """Returns the content of tournament.json in folder/sweep."""
    return json.loads((folder / "sweep/tournament.json").read_text())


def tournament_jobs(sweep: Path, role: str, method: str) -> list[Path]:
    """Returns the folders of a method's trials, or final runs."""
    plan = json.loads((sweep / "sweep.json").read_text())
    return [sweep / j["folder"] for j in plan["jobs"] if (j["role"], j["method"]) == (role, method)]


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    """Returns the weights in a checkpoint."""
    return torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)["model"]


def same_weights(a: Path, b: Path) -> bool:
    """Returns whether two runs ended in the same weights, bit for bit."""
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def run_with_and_without_graphs(trained, *typed: str) -> Path:
    """Checks that a run with CUDA graphs is the run without, bit for bit; returns the folder of the first."""
    one, other = (trained(*typed, f"cuda_graph={value}", name=value) for value in ("true", "false"))
    torch.use_deterministic_algorithms(False)
    assert timeless(rows(one)) == timeless(rows(other))
    assert same_weights(one, other)
    return one


def equal(a, b) -> bool:
    """Returns whether two states are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def train_run(folder: Path, *typed: str) -> int:
    """Starts the run of a command line in a folder, or resumes it; returns the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curves.png").touch()  # a run draws its figures, which takes half of the time, where there are none
    return start(*prepared(*typed), folder, ["trainopt", *typed], display=Display(quiet=True))


def stop_at(monkeypatch, *steps: int, number: int = signal.SIGINT) -> None:
    """Sends this process a signal when a run has made so many steps, once for each."""
    pending = list(steps)
    advance = Progress.advance

    def advance_and_stop(self, batch):
        advance(self, batch)
        if pending and self.step == pending[0]:
            pending.pop(0)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Progress, "advance", advance_and_stop)


def check_same_run(one: Path, other: Path) -> None:
    """Asserts that two runs left the same, bit for bit, but for times: rows, summary and all state."""
    assert timeless(rows(one)) == timeless(rows(other))
    assert timeless(summary(one)) == timeless(summary(other))
    arrays = [(folder / "metric_arrays.json") for folder in (one, other)]
    assert len({path.read_bytes() if path.exists() else b"" for path in arrays}) == 1
    checkpoints = [{p.name for p in (folder / "checkpoints").glob("[lb]*.pt")} for folder in (one, other)]
    assert checkpoints[0] == checkpoints[1] <= {"last.pt", "best.pt"}
    for name in checkpoints[0]:
        states = [state(folder, name) for folder in (one, other)]
        assert equal(*states), name


def state(folder: Path, name: str = "last.pt") -> dict:
    """Returns a checkpoint without what the lengths of times in it make different."""
    content = torch.load(folder / "checkpoints" / name, weights_only=True)
    del content["clocks"], content["record"]["metrics_bytes"]
    return timeless(content)


def float64_run(*typed):
    """Returns a run in float64, before its first step."""
    run = built(*typed)
    run.network.double()
    return run


def double(batch):
    """Returns the batch in float64."""
    return type(batch)(batch.inputs.double(), *batch[1:])


def jacobian(run, batch):
    """Returns J, from one backward pass for each sample; of networks without batch norm."""
    params = [p for p in run.network.parameters() if p.requires_grad]
    found = []
    for image, target in zip(batch.inputs, batch.targets, strict=True):
        loss = cross_entropy(run.objective.network(image[None]), target[None])
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)]))
    return torch.stack(found)


def closure_of_batch(run, batch):
    """Returns what the optimizer calls for the loss of a batch."""
    return closure_of(run.optimizer, lambda: run.objective(batch.inputs, batch.targets)[0])
