"""A run from the command line: what it leaves, shows, and does when typed again."""

import json
import re

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.nn.functional import cross_entropy

from helpers.runs import check_same_run, rows, stop_at, summary, weights
from trainopt.data import InMemory, digits
from trainopt.data.sources.order import epoch_generator
from trainopt.models import MLP
from trainopt.runner.records.tensorboard import TensorBoard

MLP_RUN = ("model=mlp", "duration=2epochs", "run.name=a")
TWO_EPOCHS = ("model=mlp", "duration=2epochs", "logger=none")


def test_a_run_leaves_its_folder(trainopt, tmp_path):
    assert trainopt(*MLP_RUN).code == 0
    folder = tmp_path / "outputs" / "a"
    names = {p.name for p in folder.iterdir()}
    assert names - {n for n in names if "tfevents" in n} == {
        "run.yaml",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "log.txt",
        "curves.png",
    }
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.pt", "best.pt", "step-00000012.pt"}
    config = OmegaConf.load(folder / "run.yaml")
    assert config.optimizer.lr == 0.1
    assert config.choices.model == "mlp"
    assert config.fingerprint == summary(folder)["fingerprint"]
    environment = json.loads((folder / "environment.json").read_text())
    assert torch.__version__.startswith(environment["versions"]["torch"])
    assert environment["command"] == ["trainopt", *MLP_RUN]
    assert environment["device"] == "cpu"


def test_rows_and_summary_have_what_the_design_says(trained):
    folder = trained(*TWO_EPOCHS, "regularizer=[l2]", "log_every=5steps")
    counts = {"kind", "step", "epoch", "samples", "gradients", "hvps", "gradient_equivalents", "train_seconds"}
    tests, trains = rows(folder, "test"), rows(folder, "train")
    assert all(row.keys() == counts | {"loss", "top1", "top5"} for row in tests)
    terms = {"cross_entropy", "l2", "total", "lr", "batch_size", "top1"}
    assert all(row.keys() == counts | terms for row in trains)
    assert [row["step"] for row in tests] == [0, 12, 24]
    assert [row["epoch"] for row in tests] == [0, 1, 2]
    assert [row["step"] for row in trains] == [5, 10, 15, 20, 24]
    assert trains[-1]["samples"] == 2 * 1437
    assert trains[-1]["batch_size"] == 1437 - 11 * 128
    for row in trains:
        assert row["total"] == pytest.approx(row["cross_entropy"] + row["l2"])
        assert row["gradients"] == row["step"]
    found = summary(folder)
    assert found["status"] == "finished"
    assert (found["steps"], found["epochs"], found["samples"], found["gradients"], found["hvps"]) == (
        24,
        2,
        2874,
        24,
        0,
    )
    assert found["parameters"] == found["trainable_parameters"] == 64 * 12 + 12 + 156 + 130
    assert {k: tests[-1][k] for k in ("loss", "top1", "top5")}.items() <= found["final"].items()
    best = max(tests, key=lambda row: row["top1"])
    assert found["best_top1"] == {k: best[k] for k in ("step", "epoch", "train_seconds")} | {"value": best["top1"]}
    lowest = min(tests, key=lambda row: row["loss"])
    assert found["lowest_loss"]["value"] == lowest["loss"]
    assert found["best_on"] == "test"
    assert found["seconds"].keys() == {"train", "evaluation", "probes", "checkpoint", "other"}
    assert found["wall_seconds"] == pytest.approx(sum(found["seconds"].values()))
    assert found["peak_memory_bytes"] > 10**7


def test_a_run_is_the_loop_that_one_would_write(trained):
    """Bit for bit, weights and losses; and the evaluation is exact."""
    folder = trained(*TWO_EPOCHS, "seed=3", "optimizer.momentum=0.5", "log_every=1steps")
    data = digits()
    pixels = data.x_train / np.float32(255)
    train = InMemory(data.x_train, data.y_train, [pixels.mean(dtype=np.float64)], [pixels.std(dtype=np.float64)])
    torch.manual_seed(3)
    network = MLP((1, 8, 8), 10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.5)
    losses = []
    images, labels = next(train.ordered(1437))
    for epoch in range(2):
        order = torch.randperm(1437, generator=epoch_generator(3, epoch))
        for chosen in order.split(128):
            optimizer.zero_grad()
            loss = cross_entropy(network(images[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert [row["total"] for row in rows(folder, "train")] == losses
    assert all(torch.equal(v, weights(folder)[k]) for k, v in network.state_dict().items())
    test = (torch.from_numpy(data.x_test).permute(0, 3, 1, 2) / 255 - pixels.mean()) / pixels.std()
    with torch.no_grad():
        logits = network(test)
    final = summary(folder)["final"]
    targets = torch.from_numpy(data.y_test)
    assert final["loss"] == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-5)  # float32 sums
    assert final["top1"] == pytest.approx(100 * (logits.argmax(1) == targets).double().mean().item())
    ranks = (logits > logits.gather(1, targets[:, None])).sum(1)
    assert final["top5"] == pytest.approx(100 * (ranks < 5).double().mean().item())


def test_the_same_command_again_shows_the_result(trainopt, tmp_path):
    first = trainopt(*MLP_RUN)
    folder = tmp_path / "outputs" / "a"
    before = (folder / "metrics.jsonl").read_bytes()
    again = trainopt(*MLP_RUN)
    assert again.code == 0
    assert "already finished" in again.out
    assert re.findall(r"final test top-1.*", again.out) == re.findall(r"final test top-1.*", first.out)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_another_command_for_the_same_folder_names_the_keys_that_differ(trainopt, tmp_path):
    trainopt(*MLP_RUN)
    before = (tmp_path / "outputs/a/summary.json").read_bytes()
    other = trainopt(*MLP_RUN, "optimizer.lr=0.2")
    assert other.code == 2
    assert "optimizer.lr (0.1 there, 0.2 here)" in other.err
    assert (tmp_path / "outputs/a/summary.json").read_bytes() == before
    assert trainopt(*MLP_RUN, "logger=none", "checkpoint_every=1steps").code == 0  # the same numbers, the same run


def test_two_runs_of_the_same_thing_are_the_same(trained):
    command = ("model=resnet8", "duration=15steps", "augmentation.flip=0.5", "augmentation.crop_padding=1")
    check_same_run(trained(*command, name="a"), trained(*command, name="b"))


def test_validation_decides_what_is_best(trained):
    folder = trained(*TWO_EPOCHS, "data.validation=0.2")
    found = summary(folder)
    assert (found["training_images"], found["validation_images"], found["test_images"]) == (1150, 287, 360)
    assert found["best_on"] == "validation"
    best = max(rows(folder, "validation"), key=lambda row: row["top1"])
    assert found["best_top1"]["value"] == best["top1"]
    assert torch.load(folder / "checkpoints/best.pt", weights_only=True)["progress"]["step"] == best["step"]


def test_a_loss_that_is_not_finite_is_an_outcome(trained, trainopt, tmp_path):
    command = ("model=resnet8", "optimizer.lr=1e20", "duration=1epochs", "run.name=a")
    result = trainopt(*command)
    assert result.code == 0
    assert result.out.splitlines()[-1].startswith("diverged: the loss became nan after step 1")
    folder = tmp_path / "outputs" / "a"
    found = summary(folder)
    assert found["status"] == "diverged"
    assert found["diverged_at"]["step"] == found["steps"] == 1
    # the update was not made: the weights are those of the step before
    trained("model=resnet8", "optimizer.lr=1e20", "duration=1steps", name="b")
    assert all(torch.equal(v, weights(tmp_path / "outputs/b")[k]) for k, v in weights(folder).items() if "bn" not in k)
    assert "already diverged" in trainopt(*command).out
    for strict in ((*command, "--strict"), ("resume", "outputs/a", "--strict")):
        assert trainopt(*strict).code == 3
    assert trainopt("resume", "outputs/a").code == 0


def test_strict_is_for_single_runs_that_diverge(trainopt):
    command = ("--strict", "model=mlp", "duration=3steps", "logger=none")
    assert trainopt(*command).code == 0
    assert trainopt("-m", *command, "optimizer.lr=1e30").code == 0
    assert trainopt(*command, "optimizer.lr=1e30").code == 3
    assert trainopt("status", "outputs", "--strict").code == 2


def test_a_run_that_fails_is_recorded_with_its_traceback(trainopt, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.optim.SGD.step", lambda *args: 1 / 0)
    result = trainopt(*MLP_RUN)
    assert result.code == 1
    assert "trainopt: the run failed: ZeroDivisionError: division by zero" in result.err
    assert "Traceback" not in result.err
    folder = tmp_path / "outputs" / "a"
    assert summary(folder)["status"] == "failed"
    assert "ZeroDivisionError" in summary(folder)["error"]
    assert "Traceback" in (folder / "log.txt").read_text()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert trainopt(*MLP_RUN).code == 0
    assert summary(folder)["status"] == "finished"


def test_evaluate_gives_the_figures_of_the_run(trainopt, tmp_path):
    trainopt(*MLP_RUN, "data.validation=0.1")
    final = summary(tmp_path / "outputs/a")["final"]
    result = trainopt("evaluate", "outputs/a")
    assert (result.code, result.err) == (0, "")
    line = next(line for line in result.out.splitlines() if line.startswith("test"))
    assert line.split() == ["test", "360", f"{final['loss']:.4f}", f"{final['top1']:.2f}", f"{final['top5']:.2f}"]
    assert "validation" in result.out
    assert trainopt("evaluate", "outputs/a", "--checkpoint", "best").code == 0
    assert trainopt("evaluate", "outputs/a", "--checkpoint", "outputs/a/checkpoints/last.pt").out == result.out
    assert "no such checkpoint" in trainopt("evaluate", "outputs/a", "--checkpoint", "nowhere.pt").err
    path = tmp_path / "outputs/a/summary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"selected": content["selected"] | {"top1": 99.5}}))
    other = trainopt("evaluate", "outputs/a")
    assert (other.code, other.out) == (1, result.out)
    assert "outputs/a has other values in summary.json than in metrics.jsonl: selected test top1 99.5 and " in other.err
    records = tmp_path / "outputs/a/metrics.jsonl"
    *others, last = (json.loads(line) for line in records.read_text().splitlines())
    records.write_text("".join(json.dumps(row) + "\n" for row in (*others, last | {"top1": 99.5})))
    edited = trainopt("evaluate", "outputs/a")
    assert (edited.code, edited.out) == (1, result.out)
    assert f"its record of step {final['step']}, {last['kind']}, has top1 99.5 instead of " in edited.err


def test_a_run_is_evaluated_and_exported_without_the_file_that_its_weights_began_with(trainopt, tmp_path):
    trainopt(*MLP_RUN)
    file = (tmp_path / "outputs/a/checkpoints/last.pt").rename(tmp_path / "first.pt")
    trainopt(*MLP_RUN, "run.name=b", f"model.weights={file}")
    result = trainopt("evaluate", "outputs/b")
    file.unlink()
    without = trainopt("evaluate", "outputs/b")
    assert (without.code, without.out) == (0, result.out)
    assert trainopt("export", "outputs/b", "--out", "exported").code == 0


def test_plain_lines_in_a_pipe_and_the_same_in_the_log(trainopt, tmp_path):
    result = trainopt(*MLP_RUN)
    assert "\x1b" not in result.out
    assert (
        len(re.findall(r"^epoch +[\d.]+ +step +\d+ .*test loss [\d.]+ +top-1 +[\d.]+ %$", result.out, re.MULTILINE))
        == 3
    )
    for fact in ("mlp (1,066 parameters)", "1,437 training, 360 test images; 1x8x8", "SGD, lr 0.1", "cpu"):
        assert fact in result.out
    log = (tmp_path / "outputs/a/log.txt").read_text()
    assert [line for line in result.out.splitlines() if line.startswith("epoch")] == [
        line for line in log.splitlines() if line.startswith("epoch")
    ]


@pytest.mark.draws
def test_the_picture_is_one(trainopt, tmp_path):
    from PIL import Image

    trainopt(*MLP_RUN)
    with Image.open(tmp_path / "outputs/a/curves.png") as picture:
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(10**6)) > 50


def drawn(folder, name):
    """(step, value) of each point of a curve that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, pytest.approx(event.value, rel=1e-6)) for event in events.Scalars(name)]


def test_tensorboard_draws_every_evaluation_and_training_from_the_first_row_on(trained):
    folder = trained("model=mlp", "duration=2epochs", "logger=tensorboard")
    assert drawn(folder, "test/top1") == [(row["step"], row["top1"]) for row in rows(folder, "test")]
    first = rows(folder, "train")[0]
    for name in ("total", "lr"):
        assert drawn(folder, f"train/{name}")[0] == (first["step"], first[name])


def test_tensorboard_draws_training_rows_that_are_a_twentieth_of_a_second_apart(tmp_path):
    logger = TensorBoard(tmp_path)
    for step, seconds in enumerate([0.0, 0.04, 0.06, 0.1, 0.12, 3.0]):
        logger.row({"kind": "train", "step": step, "train_seconds": seconds, "total": seconds})
    logger.close()
    assert drawn(tmp_path, "train/total") == [(0, 0.0), (2, 0.06), (4, 0.12), (5, 3.0)]


@pytest.mark.parametrize("options", [["precision=bf16"], ["channels_last=true"], ["deterministic=true"]])
def test_numeric_options_train(trained, options):
    folder = trained("model=resnet8", "duration=12steps", *options)
    assert summary(folder)["final"]["top1"] > 30
    torch.use_deterministic_algorithms(False)


def test_resized_images_reach_the_network_as_it_was_built(trained, tmp_path):
    trained("model=mlp", "data.size=12", "duration=2steps")
    assert summary(tmp_path / "outputs/a")["parameters"] == 144 * 12 + 12 + 156 + 130


def test_persistency_uses_each_batch_so_often(trained, tmp_path):
    trained("model=mlp", "duration=1epochs", "batching.persistency=3", "log_every=1steps")
    found = summary(tmp_path / "outputs/a")
    assert (found["steps"], found["samples"], found["gradients"], found["epochs"]) == (36, 3 * 1437, 36, 1.0)


def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(trainopt, tmp_path, monkeypatch):
    stop_at(monkeypatch, 7)
    result = trainopt(*MLP_RUN)
    assert result.code == 130
    assert "trainopt resume outputs/a" in result.out
    assert summary(tmp_path / "outputs/a")["status"] == "interrupted"
    assert summary(tmp_path / "outputs/a")["steps"] == 7
    assert trainopt("resume", "outputs/a").code == 0
    assert summary(tmp_path / "outputs/a")["steps"] == 24


def test_batches_of_one_image_train_batch_norm_that_has_several_positions(trained):
    folder = trained("model=resnet8", "data.limit=4", "batching.size=1", "duration=1epochs", "logger=none")
    assert summary(folder)["status"] == "finished"
    assert summary(folder)["steps"] == 4


def test_every_bit_of_a_seed_counts():
    """The generator of torch on the CPU takes 32 bits: of seeds that differ in one of them no two begin alike."""
    firsts = set()
    for seed in (0, *(2**bit for bit in range(32))):
        torch.manual_seed(seed)
        firsts.add(torch.rand(4).numpy().tobytes())
    assert len(firsts) == 33
    assert torch.manual_seed(2**32).initial_seed() == 2**32
    above = torch.rand(4)
    torch.manual_seed(0)
    assert torch.equal(above, torch.rand(4))  # which is why such seeds are refused
