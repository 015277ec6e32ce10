"""The test metrics at the best validation: those of best.pt, in summaries of this version and of earlier ones."""

import json

import pytest
import torch

from trainopt.runner import load_runs
from trainopt.runner.analysis.evaluate import evaluate_sets, load_weights, rebuild_run
from trainopt.runner.comparison.read import read_comparison
from trainopt.runner.system.display import Display

# the validation accuracy falls after its best, and the network that is evaluated is an average
TYPED = "model=mlp data=digits data.limit=300 data.validation=0.3 optimizer.lr=3 batching.size=50 duration=6epochs"
AVERAGED = "averaging=ema averaging.decay=0.5 device=cpu logger=none"


def test_selected_values_are_the_test_metrics_of_best_pt(trained):
    folder = trained(*TYPED.split(), *AVERAGED.split())
    summary = json.loads((folder / "summary.json").read_text())
    best, selected = summary["best"], summary["selected"]
    assert (selected["step"], best["step"] < summary["steps"]) == (best["step"], True)
    run = rebuild_run(folder, "cpu", Display(quiet=True))
    load_weights(run, torch.load(folder / "checkpoints/best.pt", weights_only=True), folder)
    rows = evaluate_sets(run, run.evaluation_sets)
    assert rows["validation"]["top1"] == pytest.approx(best["value"])
    assert {name: selected[name] for name in rows["test"]} == pytest.approx(rows["test"])

    def compared() -> float:
        comparison = read_comparison([folder], metric="selected_top1")
        assert comparison.metrics["selected_top1"].label == "selected test top-1 (%)"
        assert comparison.metrics["best_top1"].label == "best validation top-1 (%)"
        return comparison.methods[0].estimates["selected_top1"].mean

    assert compared() == pytest.approx(rows["test"]["top1"])
    del summary["selected"]  # as an earlier version wrote it
    (folder / "summary.json").write_text(json.dumps(summary))
    assert compared() == pytest.approx(rows["test"]["top1"])
    assert load_runs(folder).summaries.iloc[0]["selected.loss"] == pytest.approx(selected["loss"])
