"""Further test sets: records of their own, normalised as the training set, which choose nothing."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.cli import built, forked, refusal
from helpers.fixtures import image_folders
from trainopt.data import digits

RNG = np.random.default_rng(0)
DIGITS = digits()
MINE = """
import numpy as np
from torch.utils.data import Dataset
from trainopt.data import digits


def inverted():
    data = digits()
    return 255 - data.x_test, data.y_test


class Pairs(Dataset):
    def __init__(self, count, width):
        self.x = np.random.default_rng(count).standard_normal((count, width)).astype("float32")

    def __getitem__(self, index):
        return self.x[index], index % 3

    def __len__(self):
        return len(self.x)


def pairs():
    return {"train": Pairs(30, 4), "test": Pairs(12, 4)}


def more(width=4):
    return Pairs(9, width)


def nothing():
    return 5
"""
NAME = "further_sets_of_a_user"


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """Files of digits, and a module."""
    (tmp_path / f"{NAME}.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    np.savez(tmp_path / "noisy.npz", x_test=DIGITS.x_test[:50] // 2, y_test=DIGITS.y_test[:50])
    np.savez(tmp_path / "other.npz", a=DIGITS.x_test)
    np.savez(tmp_path / "wide.npz", x=np.zeros((10, 9, 8), np.uint8), y=np.zeros(10, int))
    np.savez(tmp_path / "floats.npz", x=np.zeros((10, 8, 8, 1), np.float32), y=np.zeros(10, int))
    (tmp_path / "C").mkdir()
    np.save(tmp_path / "C/labels.npy", np.tile(DIGITS.y_test[:20], 5))
    np.save(tmp_path / "C/fog.npy", np.concatenate([DIGITS.x_test[:20] // (k + 1) for k in range(5)]))
    for label in range(10):
        (tmp_path / f"folder/{label}").mkdir(parents=True)
        Image.fromarray(DIGITS.x_test[DIGITS.y_test == label][0, :, :, 0]).save(tmp_path / f"folder/{label}/a.png")
    yield tmp_path
    sys.modules.pop(NAME, None)


def test_all_forms_are_normalised_by_the_statistics_of_the_training_set(mine):
    forms = [
        f"noisy: {{path: {mine}/noisy.npz}}",
        f"fog: {{path: {mine}/C/fog.npy, severity: 3}}",
        f"files: {{path: {mine}/folder}}",
        f"inverted: {{_target_: {NAME}.inverted}}",
    ]
    run = built("model=mlp", f"evaluation_sets={{{', '.join(forms)}}}")
    assert list(run.evaluation_sets) == ["test", "noisy", "fog", "files", "inverted"]
    pixels = DIGITS.x_train / np.float32(255)
    mean, std = pixels.mean(dtype=np.float64), pixels.std(dtype=np.float64)
    first = np.stack([DIGITS.x_test[DIGITS.y_test == label][0] for label in range(10)])
    for kind, images in (
        ("noisy", DIGITS.x_test[:50] // 2),
        ("fog", DIGITS.x_test[:20] // 3),
        ("files", first),
        ("inverted", 255 - DIGITS.x_test),
    ):
        inputs, _ = next(run.evaluation_sets[kind].ordered(1000))
        expected = torch.from_numpy((images / 255 - mean) / std).permute(0, 3, 1, 2).float()
        assert torch.allclose(inputs, expected, atol=1e-5), kind
    assert run.evaluation_sets["files"].targets.tolist() == list(range(10))
    assert torch.equal(run.evaluation_sets["fog"].targets, torch.from_numpy(DIGITS.y_test[:20]))


def test_they_get_the_channels_and_the_padding_of_the_data(mine):
    typed = ["model=mlp", "data.channels=3", "data.pad=2", f"evaluation_sets={{noisy: {{path: {mine}/noisy.npz}}}}"]
    run = built(*typed)
    assert {kind: source.shape for kind, source in run.evaluation_sets.items()} == {
        "test": (3, 12, 12),
        "noisy": (3, 12, 12),
    }


def test_folders_of_images_have_folders_as_further_sets(mine):
    image_folders(mine, train=3, val=2, height=10, width=10)
    other = mine / "other"
    image_folders(other, train=1, val=1, height=10, width=10)
    typed = ["model=mlp", "data=imagefolder", f"data.path={mine}", "data.size=8", "data.workers=0", "batching.size=2"]
    run = built(*typed, f"evaluation_sets={{other: {{path: {other}/val}}}}")
    assert len(run.evaluation_sets["other"]) == 2
    inputs, labels = next(run.evaluation_sets["other"].ordered(2))
    assert inputs.shape == (2, 3, 8, 8)
    assert labels.tolist() == [0, 1]
    line = refusal(*typed, f"evaluation_sets={{other: {{path: {mine}/noisy.npz}}}}")
    assert "must be a folder of images by class, as the data is one" in line


def test_they_are_records_of_their_own_and_choose_nothing(mine):
    """Without them the run is the same, but for the records."""
    common = ["model=mlp", "data.limit=60", "batching.size=20", "duration=3epochs", "logger=[]", "data.validation=0.2"]
    more = [f"evaluation_sets={{noisy: {{path: {mine}/noisy.npz}}}}", "hydra.run.dir=with"]
    assert forked(*common, *more, folder=mine) == 0, (mine / "output").read_text()
    assert forked(*common, "hydra.run.dir=without", folder=mine) == 0
    summaries = [json.loads((mine / name / "summary.json").read_text()) for name in ("with", "without")]
    noisy = summaries[0]["final"].pop("noisy")
    assert summaries[0].pop("noisy_images") == 50
    assert 0 <= noisy["top1"] <= 100
    for key in ("final", "lowest_loss", "best_top1", "best_on"):
        for values in summaries:
            if isinstance(values[key], dict):
                values[key].pop("train_seconds", None)
        assert summaries[0][key] == summaries[1][key]
    records = [json.loads(line) for line in (mine / "with/metrics.jsonl").read_text().splitlines()]
    kinds = [record["kind"] for record in records if record["kind"] != "train"]
    assert kinds == ["validation", "test", "noisy"] * 4
    assert next(r for r in reversed(records) if r["kind"] == "noisy")["top1"] == noisy["top1"]


def test_a_dataset_is_a_further_set_of_datasets():
    typed = ["model=mlp", f"data._target_={NAME}.pairs", "batching.size=8"]
    run = built(*typed, f"evaluation_sets={{more: {{_target_: {NAME}.more}}}}")
    assert len(run.evaluation_sets["more"]) == 9
    line = refusal(*typed, f"evaluation_sets={{more: {{_target_: {NAME}.more, width: 5}}}}")
    assert line == "evaluation_sets.more: its inputs are [5], those of the data [4]"
    line = refusal(*typed, "evaluation_sets={more: {path: x.npz}}")
    assert "evaluation_sets.more.path: the data is a Dataset, whose transforms prepare inputs; give a _target_" in line


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        ("{test: {path: x.npz}}", "evaluation_sets.test: the name is taken by other records; give another, as test_sh"),
        ("{top1: {path: x.npz}}", "evaluation_sets.top1: the name is taken"),
        ("{3d: {path: x.npz}}", "evaluation_sets.3d: the name must be letters, digits, _ and -, a letter first"),
        ("{a: {}}", "evaluation_sets.a: must have one of path and _target_, as in evaluation_sets={fog: {path: fog"),
        ("{a: {path: x.npz, paht: y}}", "evaluation_sets.a.paht: unknown key; did you mean path?"),
        ("{a: {path: x.npz, severity: 6}}", "evaluation_sets.a.severity=6: must be an integer in [1, 5] or null"),
        ("{a: {path: x.npz}}", "evaluation_sets.a: x.npz: no such file; x_test and y_test, x and y"),
        ("{a: {path: DIR/other.npz}}", "other.npz: holds no arrays called x_test and y_test"),
        ("{a: {path: DIR/wide.npz}}", "evaluation_sets.a: its inputs are [1, 9, 8], those of the data [1, 8, 8]"),
        (
            "{a: {path: DIR/floats.npz}}",
            "evaluation_sets.a: its inputs are float32, those of the data uint8, which are on another scale",
        ),
        ("{a: {path: DIR/noisy.npz, severity: 2}}", None),
        ("{a: {path: DIR/C}}", "test_labels, or a file beside labels.npy: "),
        ("{a: {_target_: NAME.nothing}}", "evaluation_sets.a: the function must return a Dataset, or a pair of arrays"),
        ("{a: {_target_: NAME.inverted, path: x}}", "evaluation_sets.a: must have one of path and _target_"),
        ("5", "evaluation_sets=5: must be a section or null"),
    ],
)
def test_other_sets_and_names_are_refused(mine, sets, line):
    typed = ["model=mlp", f"evaluation_sets={sets.replace('DIR', str(mine)).replace('NAME', NAME)}"]
    if line is None:
        assert len(built(*typed).evaluation_sets["a"]) == 10
    else:
        assert line in refusal(*typed)
