"""The example of the guide on data, as it stands there; and a run on a Dataset that a damaged item interrupts."""

import json
import re
import shlex
import sys

import pytest

from helpers import ROOT
from helpers.cli import forked

GUIDE = (ROOT / "docs/data.md").read_text()


@pytest.fixture
def mine(tmp_path):
    """The guide's module, in the folder of the command."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (module,) = [block for block in blocks if "class Circles" in block]
    (tmp_path / "mine.py").write_text(module)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.slow
def test_the_example_of_the_guide_learns(mine):
    lines = re.findall(r"^\$ (trainopt .*mine\.datasets.*)$", GUIDE, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        assert forked(*shlex.split(line)[1:], "logger=[]", folder=mine) == 0, (mine / "output").read_text()
    summaries = [json.loads(path.read_text()) for path in mine.glob("outputs/**/summary.json")]
    assert len(summaries) == 3
    assert all(summary["final"]["top1"] > 85 for summary in summaries)
    assert all(summary["best_on"] == "validation" for summary in summaries)


BREAKABLE = """
from pathlib import Path

from mine import Circles


class Breakable(Circles):
    def __getitem__(self, index):
        if index == 7 and Path("broken").exists() and reads() > 5:
            raise OSError("damaged")
        return super().__getitem__(index)


def reads():
    # how often the item was read, by any process
    with open("reads", "a") as file:
        file.write("x")
    return Path("reads").stat().st_size


def datasets():
    return {"train": Breakable(60, 0, noise=0.5), "test": Circles(40, 1)}
"""


@pytest.mark.slow
def test_a_run_that_a_damaged_item_ended_goes_on_as_if_nothing_had_been(mine):
    """Item 7 is damaged from its sixth read on: it is read four times at the start, so in the second epoch."""
    (mine / "broken_data.py").write_text(BREAKABLE)
    common = ["data._target_=broken_data.datasets", "model=mlp", "batching.size=20", "duration=5epochs", "logger=[]"]
    assert forked(*common, "data.workers=0", "hydra.run.dir=whole", folder=mine) == 0, (mine / "output").read_text()
    (mine / "reads").unlink(missing_ok=True)
    (mine / "broken").touch()
    parts = [*common, "data.workers=2", "checkpoint_every=1steps", "hydra.run.dir=parts"]
    assert forked(*parts, folder=mine) == 2
    text = (mine / "output").read_text()
    assert "data: item 7 of the train set cannot be read (OSError: damaged); once this is mended, the same" in text
    (mine / "broken").unlink()
    assert forked(*parts, folder=mine) == 0
    finals = []
    for name in ("whole", "parts"):
        records = [json.loads(line) for line in (mine / name / "metrics.jsonl").read_text().splitlines()]
        finals.append([(r["step"], r["loss"], r["top1"]) for r in records if r["kind"] == "test"])
    assert finals[0] == finals[1]
