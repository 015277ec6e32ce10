"""Runs on folders of images: what their start says, damaged files, and decisions that hold while a run goes on."""

import numpy as np
import pytest
from PIL import Image

from helpers.cli import built, refusal
from helpers.fixtures import image_folders
from helpers.ranks import run_ranks
from helpers.runs import check_same_run, summary
from trainopt.runner.records.run_folder import read_former_environment
from trainopt.runner.system.files import read_json, write_json

RUN = ["model=mlp", "model.hidden=[4]", "data=imagefolder", "data.path=images", "data.size=8", "logger=none"]
RUN += ["data.workers=0", "batching.size=4", "duration=3epochs", "run.name=a"]


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder with a training set of 12 and a test set of 6 images of noise."""
    monkeypatch.chdir(tmp_path)
    image_folders(tmp_path / "images", train=6, val=3, height=12, width=12)
    return tmp_path / "images"


def cut(path):
    """Leaves only the header of an image whole."""
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_damaged_file_ends_a_run_with_its_name_and_the_run_can_go_on(finished, tmp_path, images, workers):
    whole = (images / "train/dog/2.png").read_bytes()
    cut(images / "train/dog/2.png")
    result = finished(*RUN, f"data.workers={workers}", "checkpoint_every=1steps")
    assert result.code == 2
    last = result.out.splitlines()[-1]
    assert last.startswith("trainopt: images/train/dog/2.png: cannot be read as an image (")
    assert "Traceback" not in result.out
    assert summary(tmp_path / "outputs/a")["status"] == "failed"
    assert summary(tmp_path / "outputs/a")["damaged_image"]
    (images / "train/dog/2.png").write_bytes(whole)
    assert finished(*RUN).code == 0
    (earlier,) = read_json(tmp_path / "outputs/a/environment.json")["earlier"]
    assert "data_checksum" not in earlier  # compare would take the repaired file for other data
    assert finished(*RUN, "run.name=whole").code == 0
    check_same_run(tmp_path / "outputs/a", tmp_path / "outputs/whole")


def test_files_are_left_out_alike_by_a_run_that_goes_on_and_by_evaluations(finished, tmp_path, images):
    whole = (images / "train/dog/2.png").read_bytes()
    cut(images / "train/dog/2.png")
    cut(images / "val/cat/0.png")
    result = finished(*RUN, "data.on_error=skip")
    assert result.code == 0
    text = " ".join(result.out.split())
    assert "11 training, 5 test images; 3x8x8, 2 classes" in text
    assert "note: 2 of 18 images are left out: images/train/dog/2.png: cannot be read" in text
    decided = {"max_value": None, "skipped": ["train/dog/2.png", "val/cat/0.png"]}
    assert read_json(tmp_path / "outputs/a/environment.json")["data"] == decided
    (images / "val/cat/0.png").write_bytes(whole)
    table = finished("evaluate", "outputs/a").out
    assert f"{summary(tmp_path / 'outputs/a')['final']['loss']:.4f}" in table  # over the same five images


def test_a_checkpoint_is_evaluated_with_the_value_of_white_that_it_was_trained_with(finished, tmp_path, images):
    for path in images.rglob("*.png"):
        rng = np.random.default_rng(path.stat().st_ino)
        Image.fromarray(rng.integers(0, 4096, (12, 12), dtype=np.uint16)).save(path)
    result = finished(*RUN)
    assert "0 is black, 4095 is white" in " ".join(result.out.split())
    Image.fromarray(np.full((12, 12), 65535, np.uint16)).save(images / "train/cat/0.png")
    table = finished("evaluate", "outputs/a").out
    assert f"{summary(tmp_path / 'outputs/a')['final']['loss']:.4f}" in table


def test_a_flat_folder_of_classes_takes_its_test_images_from_the_training_images(images):
    (images / "val").rename(images.parent / "elsewhere")
    assert "images/val: no such folder; test images must lie in images/val/CLASS/ (or valid," in refusal(*RUN)
    typed = [*RUN, "data.path=images/train"]
    flat = [word for word in typed if word != "data.path=images"]
    (images / "train").rename(images / "photos")
    flat = [word.replace("train", "photos") for word in flat]
    assert "images/photos: has no train/ and val/, and is read as one folder of classes" in refusal(*flat)
    run = built(*flat, "data.validation=0.34")
    assert {kind: len(source) for kind, source in run.evaluation_sets.items()} == {"validation": 4, "test": 4}
    assert (len(run.training_set), run.num_classes) == (8, 2)
    assert run.evaluation_sets["test"].targets.bincount().tolist() == [2, 2]
    assert any("what is said of the test set is of the validation set" in note for note in run.notes)


def test_classes_without_training_images_are_named(images, npz):
    path = npz(y_train=np.arange(60) % 3 * 2, y_test=np.arange(30) % 6)
    run = built("model=mlp", "data=arrays", f"data.path={path}", "data.num_classes=6")
    assert "3 of the 6 classes have no training images: 1, 3, 5" in run.notes
    run = built(*RUN, "data.limit=1")
    assert "1 of the 2 classes have no training images: cat" in run.notes
    one = npz(y_train=np.zeros(60, int), y_test=np.zeros(30, int))
    assert "all images are of one class" in refusal("model=mlp", "data=arrays", f"data.path={one}")


def test_a_path_that_is_missing_is_explained_by_the_option_that_needs_it():
    assert "data.path=VALUE (the folder that holds train/ and val/," in refusal("model=mlp", "data=imagefolder")
    assert "data.path=VALUE (.npz file with x_train," in refusal("model=mlp", "data=arrays")


def test_keys_of_folders_are_checked(images):
    assert "data.on_error=retry: must be one of stop, skip" in refusal(*RUN, "data.on_error=retry")
    assert "data.max_value=0: must be a number > 0 or null" in refusal(*RUN, "data.max_value=0")


@pytest.mark.slow
def test_a_damaged_file_that_another_rank_reads_is_known_too(tmp_path, images):
    cut(images / "train/dog/2.png")
    line = " ".join(RUN[:-1]).replace("data.path=images", f"data.path={images}")
    assert run_ranks(2, f"{line} device=cpu", tmp_path / "run") == [1, 2]
    result = summary(tmp_path / "run")
    assert result["error"].startswith("RankError: rank 1: DamagedImage: ")
    assert result["damaged_image"]


def test_an_error_with_the_same_words_leaves_the_checksum_of_the_data(tmp_path):
    write_json(tmp_path / "environment.json", {"data_checksum": {"value": "a"}})
    write_json(tmp_path / "summary.json", {"status": "failed", "error": "an.onnx: cannot be read as an image"})
    assert "data_checksum" in read_former_environment(tmp_path)
