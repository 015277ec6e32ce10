"""The study of Zorca 2020 that needs no download: a backbone, then its last layer anew with each optimizer."""

import pytest

from helpers.runs import equal, rows, summary, weights

OPTIMIZERS = ("ehnewton", "adam", "rmsprop", "adagrad", "sgd")


@pytest.mark.slow
def test_each_optimizer_learns_the_last_layer_of_the_backbone(trainopt, tmp_path):
    assert "zorca2020-digits-backbone" in trainopt("experiment=zorca2020/digits").err  # what is missing is named
    assert trainopt("experiment=zorca2020/digits_backbone").code == 0
    sweep = tmp_path / "outputs/study"
    typed = ("-m", "experiment=zorca2020/digits", f"optimizer={','.join(OPTIMIZERS)}")
    assert trainopt(*typed, f"hydra.sweep.dir={sweep}").code == 0
    backbone = weights(tmp_path / "outputs/zorca2020-digits-backbone")
    runs = sorted(path.parent for path in sweep.glob("*/summary.json"))
    assert len(runs) == len(OPTIMIZERS)
    for run in runs:
        after = weights(run)
        assert all(equal(after[name], backbone[name]) for name in backbone if not name.startswith("linear."))
        assert summary(run)["final"]["top1"] > 95
        tests = rows(run, "test")
        assert tests[0]["top1"] < 40  # the classifier began anew
    assert trainopt("compare", str(sweep)).code == 0
