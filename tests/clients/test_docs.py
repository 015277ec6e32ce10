"""The code of docs/in_your_training_code.md, as it stands there."""

import re

import pytest

from helpers import ROOT
from trainopt.runner.config.options import shipped_option

pytest.importorskip("pytorch_optimizer")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*")
def test_its_blocks_run_one_after_another_and_print_what_they_say(capsys, monkeypatch, tmp_path):
    from pytorch_optimizer.optimizer import OPTIMIZERS
    from timm.optim._optim_factory import default_registry

    monkeypatch.setattr(default_registry, "_optimizers", dict(default_registry._optimizers))
    monkeypatch.setitem(OPTIMIZERS, "ehnewton", None)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/in_your_training_code.md").read_text(), re.DOTALL)
    assert len(blocks) == 7
    names = {"__name__": "docs"}
    presets = []
    for block in blocks:
        exec(compile(block, "in_your_training_code.md", "exec"), names)
        presets += [names["optimizer"].defaults] if "subspace=" in block else []
    auto = shipped_option("optimizer", "ehnewton_auto")
    assert presets == [{key: value for key, value in auto.items() if key != "_target_"}]
    printed = capsys.readouterr().out
    assert "'gradient_equivalents'" in printed
    assert re.search(r"^\d+ \S+ (converged|max_iter|negative_curvature)$", printed, re.MULTILINE)
