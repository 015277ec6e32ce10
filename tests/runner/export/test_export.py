"""Exports: the code of the card is run, and what it loads is the network of the checkpoint."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy import stats

from helpers.fixtures import made_up_run, made_up_sweep
from helpers.runs import weights
from trainopt.runner.analysis.evaluate import evaluate_sets, load_weights, rebuild_run
from trainopt.runner.export.card import commands_of, finals_of_seeds, seeds_table
from trainopt.runner.export.export import export_run
from trainopt.runner.records.run_folder import read_config
from trainopt.runner.system.display import Display
from trainopt.runner.system.errors import UserError

RUN = ("data.limit=20", "batching.size=10", "duration=2steps", "logger=none", "device=cpu")
TIMM = ("model=timm", "model.name=test_resnet")


def code_blocks(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)


def executed(code: str, folder: Path):
    """The `model` that a block of code makes."""
    variables: dict = {}
    exec(code.replace('folder = "."', f"folder = {str(folder)!r}"), variables)
    return variables["model"]


def loaded_by(code: str, folder: Path, before: str = ""):
    """The outputs of the network that a block of code makes, in a process of its own, for the inputs in a file."""
    end = "import torch; torch.save(model(torch.load('inputs.pt')).detach(), 'outputs.pt')"
    script = "\n".join([before, code.replace('folder = "."', f"folder = {str(folder)!r}"), end])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=folder.parent, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return torch.load(folder.parent / "outputs.pt")


@pytest.fixture
def network_of(tmp_path):
    """The network of a checkpoint, with inputs and its outputs."""

    def rebuild(folder: Path, name: str):
        run = rebuild_run(folder, "cpu", Display(quiet=True))
        load_weights(run, torch.load(folder / f"checkpoints/{name}.pt", weights_only=True), folder)
        shape = (5, *run.input_shape)
        inputs = torch.randn(shape) if run.input_dtype.is_floating_point else torch.randint(5, shape)
        torch.save(inputs, tmp_path / "inputs.pt")
        with torch.no_grad():
            return run, inputs, run.network.eval()(inputs)

    return rebuild


@pytest.mark.slow
def test_timm_loads_its_network_with_its_preprocessing(trained, tmp_path, network_of):
    import timm

    folder, out = trained(*TIMM, *RUN), tmp_path / "out"
    files = export_run(folder, "last", out, Display(quiet=True))
    assert files == ["README.md", "config.json", "model.safetensors"]
    run, inputs, outputs = network_of(folder, "last")
    code, _ = code_blocks((out / "README.md").read_text())
    model = executed(code, out)
    with torch.no_grad():
        assert torch.allclose(model(inputs), outputs, atol=1e-6)
    source = run.evaluation_sets["test"]
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (1, 32, 32)
    pixels = torch.rand(3, 1, 32, 32)
    ours = pixels * 255 * source.scale + source.offset
    theirs = (pixels - torch.tensor(config["mean"])) / torch.tensor(config["std"])
    assert torch.allclose(ours, theirs, atol=1e-6)
    stored = load_file(out / "model.safetensors")
    assert {name: value.sum() for name, value in stored.items()} == {n: v.sum() for n, v in weights(folder).items()}
    assert (out / "model.safetensors").stat().st_mode == (out / "config.json").stat().st_mode
    cfg = json.loads((out / "config.json").read_text())
    assert (cfg["trainopt"]["checkpoint"], "tag" in cfg["pretrained_cfg"]) == ("last.pt", False)
    check_only_exports_are_replaced(folder, out)


def check_only_exports_are_replaced(folder, out):
    (out / "mine.txt").write_text("mine")
    (out / "model.pt2").write_text("of another network")
    export_run(folder, "last", out, Display(quiet=True))
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "mine.txt", "model.safetensors"]
    (out / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds other files than those of an export; give a new folder$"):
        export_run(folder, "last", out, Display(quiet=True))
    with pytest.raises(UserError, match=r"mine.txt: is no folder$"):
        export_run(folder, "last", out / "mine.txt", Display(quiet=True))


def test_the_card_has_the_interval_over_seeds(tmp_path):
    values = [90.0, 91.0, 93.5]
    runs = [{"seed": seed, "top1": value} for seed, value in enumerate(values)]
    others = [{"seed": 3, "status": "diverged"}, {"seed": 4, "top1": 50.0, "config": {"optimizer.lr": 0.5}}]
    sweep = made_up_sweep(tmp_path / "sweep", [*runs, *others])
    folder = next(path for path in sweep.glob("*/") if path.name == "seed=1")
    config = read_config(folder)[0]
    text = re.sub(" +", " ", "\n".join(seeds_table(folder, config)))
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert f"| top1 | 91.5 | 1.8 | {low:.4g} to {high:.4g} |" in text
    assert "3 runs of this configuration that differ in their seed alone (0, 1, 2); 1 more diverged" in text
    alone = made_up_run(tmp_path / "alone")
    assert len(finals_of_seeds(alone, read_config(alone)[0])[0]) == 1
    assert seeds_table(alone, read_config(alone)[0]) == []


NETWORKS = {
    "mlp": "model=mlp",
    "averaged": "model=mlp averaging=ema averaging.decay=0.5",
    "resnet8": "model=resnet8 channels_last=true",
    "transformer": "model=transformer data=modular_addition data.p=5",
    "autoencoder": "model=autoencoder data=digits optimizer=schedulefree_sgd optimizer.lr=0.01",
    "last layer": "model=resnet8 model.trainable=last_layer",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", NETWORKS.values(), ids=NETWORKS)
def test_plain_torch_and_the_class_load_other_networks(trained, tmp_path, network_of, line):
    folder, out = trained(*line.split(), *RUN), tmp_path / "out"
    export_run(folder, "last", out, Display(quiet=True))
    _, inputs, outputs = network_of(folder, "last")
    state = torch.load(folder / "checkpoints/last.pt", weights_only=True)
    stored = load_file(out / "model.safetensors")
    is_trained = all(torch.equal(stored[name], value) for name, value in state["model"].items())
    assert is_trained == ("averaging=" not in line and "schedulefree" not in line)
    plain, of_class, *_ = code_blocks((out / "README.md").read_text())
    if line == NETWORKS["mlp"]:
        without = "import sys; sys.modules['trainopt'] = None"  # it cannot be imported
        assert torch.allclose(loaded_by(plain, out, without), outputs, atol=1e-5)
    with torch.no_grad():
        for code in (plain, of_class):
            assert torch.allclose(executed(code, out)(inputs), outputs, atol=1e-5)


def test_the_command_of_a_card_is_that_of_the_whole_run():
    began, longer = ["trainopt", "duration=2epochs"], ["trainopt", "resume", "outputs/a=1", "duration=4epochs"]
    again = ["trainopt", "resume", "outputs/a=1"]
    earlier = [{"command": began}, {"command": again}, {"command": longer}]
    assert commands_of({"earlier": earlier, "command": again}) == [began, longer]
    assert commands_of({"command": began}) == [began]
    assert commands_of({}) == []


@pytest.mark.slow
def test_the_command_exports_and_refuses(trained, trainopt, tmp_path):
    folder = trained("model=mlp", *RUN)
    other = trained("model=mlp", "model.hidden=[3]", *RUN, name="b")
    theta = trained("model=function", "data=none", "duration=1steps", "logger=none", name="c")
    assert (
        "files: out/ (README.md, config.json, model.pt2, model.safetensors)"
        in trainopt("export", str(folder), "--checkpoint", "best", "--out", "out").out
    )
    for typed, message in [
        (["--checkpoint", str(other / "checkpoints/last.pt")], "last.pt: is no checkpoint of this run"),
        (["--checkpoint", "nothing.pt"], "nothing.pt: "),
    ]:
        result = trainopt("export", str(folder), "--out", "new", *typed)
        assert (result.code, message in result.err) == (2, True)
        assert not list(Path().glob("new*"))
    assert "is of a test function, which has no network to export" in trainopt("export", str(theta), "--out", "n").err
    assert trainopt("export", str(folder)).err == "trainopt: export: --out is missing; give --out DIR, a new folder\n"


def grey_images(kind: str, count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 12, 12) of two classes, the darker and the brighter ones."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    pixels = rng.uniform(0, 120, (count, 12, 12)) + 100 * labels[:, None, None]
    return (pixels.astype(np.uint8) if kind == "uint8" else pixels.astype(np.float32)), labels


class GreyImages(torch.utils.data.Dataset):
    """Each item is an image (H, W) of uint8 and its class."""

    def __init__(self):
        self.images, self.targets = grey_images("uint8")

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], int(self.targets[index])


def grey_dataset():
    return {"train": GreyImages(), "test": GreyImages()}


SAMPLES = {  # options, images of the test set as the code of the card takes them
    "Dataset": (f"data._target_={__name__}.grey_dataset", torch.from_numpy(grey_images("uint8")[0][:, None])),
    "normalised": (
        f"data._target_={__name__}.grey_dataset data.mean=[0.4] data.std=[0.2]",
        torch.from_numpy(grey_images("uint8")[0][:, None]),
    ),
    "uint8": (
        "data=arrays data.path={file} data.channels=3 data.pad=2",
        torch.from_numpy(grey_images("uint8")[0][..., None]),
    ),
    "float": ("data=arrays data.path={file}", torch.from_numpy(grey_images("float32")[0][..., None])),
    "upsampled": (
        "data=arrays data.path={file} model=timm model.name=test_resnet",
        torch.from_numpy(grey_images("uint8")[0][..., None]),
    ),
}


@pytest.mark.parametrize(
    "name", ["Dataset", *(pytest.param(name, marks=pytest.mark.slow) for name in SAMPLES if name != "Dataset")]
)
def test_the_code_of_the_card_predicts_what_evaluations_do(trained, tmp_path, name):
    line, images = SAMPLES[name]
    x, y = grey_images("float32" if name == "float" else "uint8")
    x = x[..., None]
    np.savez(tmp_path / "file.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    typed = ["model=mlp", *line.format(file=tmp_path / "file.npz").split(), *RUN[1:]]
    folder, out = trained(*typed), tmp_path / "out"
    export_run(folder, "last", out, Display(quiet=True))
    run = rebuild_run(folder, "cpu", Display(quiet=True))
    load_weights(run, torch.load(folder / "checkpoints/last.pt", weights_only=True), folder)
    expected = evaluate_sets(run, {"test": run.evaluation_sets["test"]})["test"]
    load, *_, predict = code_blocks((out / "README.md").read_text())
    variables = {"images": images, "model": executed(load, out)}
    exec("import torch\n" + predict, variables)
    outputs, labels = variables["outputs"], torch.from_numpy(y)
    assert torch.nn.functional.cross_entropy(outputs, labels).item() == pytest.approx(expected["loss"], rel=1e-5)
    assert (outputs.argmax(1) == labels).float().mean().item() * 100 == pytest.approx(expected["top1"])


@pytest.mark.slow
def test_the_code_of_the_card_reads_files_as_evaluations_do(trained, tmp_path):
    x, y = grey_images("uint8")
    files = []
    for part in ("train", "val"):
        for index, (image, label) in enumerate(zip(x, y, strict=True)):
            files.append(tmp_path / "images" / part / str(label) / f"{index:02}.png")
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((30, 24)).save(files[-1])
    data = f"data=imagefolder data.path={tmp_path / 'images'} data.size=16 data.crop_pct=0.8"
    folder, out = trained("model=mlp", *data.split(), *RUN[1:]), tmp_path / "out"
    export_run(folder, "last", out, Display(quiet=True))
    run = rebuild_run(folder, "cpu", Display(quiet=True))
    load_weights(run, torch.load(folder / "checkpoints/last.pt", weights_only=True), folder)
    expected = evaluate_sets(run, {"test": run.evaluation_sets["test"]})["test"]
    load, *_, predict = code_blocks((out / "README.md").read_text())
    variables, outputs = {"torch": torch, "model": executed(load, out)}, []
    tested = sorted(files[len(x) :])
    for file in tested:
        exec(predict.replace("image.png", str(file)), variables)
        outputs.append(variables["outputs"])
    labels = torch.tensor([int(file.parent.name) for file in tested])
    loss = torch.nn.functional.cross_entropy(torch.cat(outputs), labels).item()
    assert loss == pytest.approx(expected["loss"], rel=1e-5)
