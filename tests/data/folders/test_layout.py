"""Which folders hold which set, and what is no image of them."""

import os

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from trainopt.data import DataError, image_folder
from trainopt.data.folders.layout import EXTENSIONS, find_sets, list_images


def put(top, *paths):
    """Writes a small image under each of these names."""
    for path in paths:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(top / path, format="PNG")


def test_images_and_their_order_are_those_of_torchvision(tmp_path):
    put(tmp_path, "b/2.png", "b/10.JPG", "b/sub/1.tif", "b.c/0.png", "b/sub-1/a.webp", "Z/x.bmp", "a/.png.png")
    (tmp_path / "a/x.png").write_bytes(b"")
    (tmp_path / "a/.png.png").unlink()
    files, theirs = list_images(tmp_path), ImageFolder(str(tmp_path))
    assert (files.samples, files.targets, files.classes) == (theirs.samples, theirs.targets, theirs.classes)
    assert EXTENSIONS == IMG_EXTENSIONS


def test_litter_is_left_out_and_counted(tmp_path):
    put(tmp_path, "cat/1.png", "cat/._1.png", "cat/._2.png", "cat/.ipynb_checkpoints/1-checkpoint.png", "dog/1.png")
    put(tmp_path, ".ipynb_checkpoints/1.png", "__MACOSX/cat/1.png", "dog/@eaDir/1.png", "loose.png", "bird/x.gif")
    (tmp_path / "wolf").mkdir()
    (tmp_path / "cat/Thumbs.db").touch()
    files = list_images(tmp_path)
    assert [os.path.relpath(path, files.root) for path, _ in files.samples] == ["cat/1.png", "dog/1.png"]
    assert files.classes == ["cat", "dog"]
    assert files.empty == ["bird", "wolf"]
    assert files.left_out == {
        **{".ipynb_checkpoints": 2, "._*": 2, "__MACOSX": 1, "@eaDir": 1, "*.png": 1, "*.gif": 1, "Thumbs.db": 1}
    }
    notes = image_folder(str(tmp_path)).notes
    assert notes[0].startswith(f"not read in {tmp_path}: 2 .ipynb_checkpoints, 2 ._*, 1 ")
    assert notes[1] == f"{tmp_path}: folders without images are no classes: bird, wolf"


@pytest.mark.parametrize(
    ("folders", "expected", "beside"),
    [
        (["train", "val"], ("train", "val"), []),
        (["Train", "VALID"], ("Train", "VALID"), []),
        (["train", "validation", "x"], ("train", "validation"), ["x"]),
        (["Training", "Testing"], ("Training", "Testing"), []),
        (["train", "test", "val"], ("train", "val"), ["test"]),
        (["Train", "train", "Val", "val"], ("train", "val"), ["Train", "Val"]),
        (["train", "x"], ("train", None), ["x"]),
        (["cat", "dog"], ("", None), []),
    ],
)
def test_the_sets_have_the_names_that_people_use(tmp_path, folders, expected, beside):
    for name in folders:
        (tmp_path / name).mkdir()
    train, test, others = find_sets(tmp_path, None)
    assert (train, test) == (tmp_path / expected[0], expected[1] and tmp_path / expected[1])
    assert others == beside


def test_the_folder_of_the_test_images_can_be_chosen(tmp_path):
    put(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "val", "test") for name in ("cat", "dog")))
    data = image_folder(str(tmp_path), test="test")
    assert data.test.root == tmp_path / "test"
    assert data.notes == [f"not read in {tmp_path}: val; data.test=NAME chooses the folder of the test images"]
    with pytest.raises(DataError, match=r"tests: no such folder; data.test names"):
        image_folder(str(tmp_path), test="tests")


def test_labels_of_the_test_set_are_those_of_the_training_set(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "val/c/1.png", "val/c/2.png")
    data = image_folder(str(tmp_path))
    assert data.test.targets == [2, 2]
    assert data.notes == [f"{tmp_path / 'val'}: has no images of a, b"]
    put(tmp_path, "val/B/1.png")
    with pytest.raises(DataError, match=r"val: both sets must hold the same classes; B is not among .* a, b, c"):
        image_folder(str(tmp_path))
    (tmp_path / "val/B/1.png").unlink()
    assert image_folder(str(tmp_path)).num_classes == 3  # an empty folder is no class
    (tmp_path / "train/c/1.png").unlink()
    with pytest.raises(DataError, match=r"c is not among those of the training set, a, b"):
        image_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ([], "", r"train: no such folder; images must lie in .*/train/CLASS/ and .*/val/CLASS/"),
        (["val/a/1.png"], "", r"train: no such folder"),
        (["train/1.png", "val/a/1.png"], "", r"train: no folder in it holds images"),
        (["train/a/1.png", "train/b/1.png", "val/1.png"], "", r"val: no folder in it holds images"),
        (["a/1.png"], "", r"holds one class only, a; two are needed"),
        (["a/1.png"], "a/1.png", r"a/1.png: is a file, a folder of images is needed; data=arrays"),
    ],
)
def test_what_is_missing_is_named(tmp_path, files, path, message):
    put(tmp_path, *files)
    with pytest.raises(DataError, match=message) as error:
        image_folder(str(tmp_path / path))
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)
