"""Data sets: their content, and the errors for those that are missing or damaged."""

import pickle
import struct
import tracemalloc
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from trainopt.data import (
    Arrays,
    DataError,
    arrays,
    breast_cancer,
    class_balanced,
    diabetes,
    digits,
    modular_addition,
    svhn,
    synthetic,
    torchvision_arrays,
)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    data = digits()
    assert (len(data.y_train), len(data.y_test), data.num_classes) == (1437, 360, 10)
    assert data.input_shape == (1, 8, 8)
    ours = np.concatenate([data.x_train, data.x_test]).reshape(1797, 64)
    theirs = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))
    assert np.bincount(data.y_test).min() >= 34  # class-balanced


def test_synthetic_images_are_balanced_and_the_same_every_time():
    one, two = (synthetic(num_classes=4, image_shape=[2, 5, 7], train_size=40, test_size=8) for _ in range(2))
    assert one.input_shape == (2, 5, 7)
    assert np.bincount(one.y_train).tolist() == [10, 10, 10, 10]
    assert np.array_equal(one.x_train, two.x_train)
    assert not np.array_equal(one.x_train, synthetic(4, [2, 5, 7], 40, 8, data_seed=1).x_train)


def test_the_channel_of_grayscale_images_is_repeated(npz):
    gray = arrays(str(npz(shape=(6, 5))))
    color = gray.with_channels(3)
    assert color.input_shape == (3, 6, 5)
    for name in ("x_train", "x_test"):
        for channel in range(3):
            assert np.array_equal(getattr(color, name)[..., channel], getattr(gray, name)[..., 0])
    assert (color.num_classes, color.where) == (gray.num_classes, gray.where)
    assert color.with_channels(3) is color
    with pytest.raises(DataError, match="channels=1: images have 3 channels; only grayscale ones"):
        color.with_channels(1)


def test_images_get_zero_padding_on_every_side(npz):
    plain = arrays(str(npz(shape=(6, 5, 3))))
    padded = plain.padded(2)
    assert padded.input_shape == (3, 10, 9)
    for name in ("x_train", "x_test"):
        before, after = getattr(plain, name), getattr(padded, name)
        assert np.array_equal(after[:, 2:-2, 2:-2], before)
        assert after.sum() == before.sum()  # the rest is 0
    assert np.array_equal(padded.y_train, plain.y_train)
    assert (padded.num_classes, padded.where) == (plain.num_classes, plain.where)


def test_grayscale_images_may_have_no_channel_axis(npz):
    data = arrays(str(npz(shape=(6, 5))))
    assert data.input_shape == (1, 6, 5)
    assert data.num_classes == 3


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"x_test": None}, "x_test missing"),
        ({"x_train": np.zeros((60, 8, 8, 1), np.float32)}, "test images differ in type, float32 and uint8"),
        ({"x_train": np.zeros((60, 8, 8), np.int64)}, "x_train is int64 of shape (60, 8, 8), must be images, uint8"),
        ({"x_train": np.zeros((60, 2), "U3")}, "x_train is <U3 of shape (60, 2), must be images, uint8"),
        ({"x_train": np.full((60, 2), np.nan)}, "x_train holds values that are nan or infinite"),
        ({"x_train": np.zeros((0, 8, 8, 1), np.uint8), "y_train": np.zeros(0, int)}, "x_train has no images"),
        ({"y_train": np.zeros((60, 1), int)}, "y_train is int64 of shape (60, 1), must be integers"),
        ({"y_train": np.zeros(60)}, "training and test targets differ in shape, (1,) and ()"),
        ({"y_train": np.full(60, np.inf)}, "y_train holds values that are nan or infinite"),
        ({"y_train": np.zeros((60, 2), int)}, "training and test targets differ in shape, (2,) and ()"),
        ({"y_train": np.zeros(59, int)}, "x_train has 60 images but y_train 59 labels"),
        ({"y_test": np.full(30, 7)}, "y_test holds labels 7 to 7, must be 0 to 2"),
        ({"y_train": np.arange(60) % 3 - 1}, "y_train holds labels -1 to 1, must be 0 to 1"),
        ({"x_test": np.zeros((30, 9, 8, 1), np.uint8)}, "training and test images differ in shape"),
        ({"x_test": np.zeros((0, 8, 8, 1), np.uint8), "y_test": np.zeros(0, int)}, "x_test has no images"),
        ({"x_train": np.zeros((60, 3, 16, 16), np.uint8)}, "has its channels first, must be (N, H, W, C): x_train.tr"),
        ({"x_test": np.zeros((30, 1, 8, 8), np.uint8)}, "x_test of shape (30, 1, 8, 8) has its channels first"),
        (
            {"y_train": np.arange(60) % 3 * 500_000},
            "y_train holds 3 different labels, 0, 500000, 1000000 up to 1000000",
        ),
        ({"y_train": np.arange(60) % 3 + 1}, "y_train holds 3 different labels, 1, 2, 3 up to 3, must be 0 to 2"),
        ({"y_train": np.full(60, 4)}, "y_train holds 1 different labels, 4 up to 4, must be 0 to 0"),
    ],
)
def test_wrong_arrays_are_named(npz, parts, message):
    with pytest.raises(DataError) as error:
        arrays(str(npz(**parts)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(4, 8, 3), (3, 8, 4), (1, 1, 1), (8, 8, 10)])
def test_channels_come_last(npz, shape):
    assert arrays(str(npz(shape=shape))).input_shape == (shape[2], *shape[:2])


def test_classes_may_have_no_training_images_where_their_number_is_typed(npz):
    path = str(npz(y_train=np.arange(60) % 3 * 2))
    with pytest.raises(DataError, match="num_classes says how many there are"):
        arrays(path)
    assert arrays(path, num_classes=6).num_classes == 6


def test_what_is_no_npz_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npy").read_bytes())
    (tmp_path / "c.npz").write_text("x,y\n1,2\n")
    for name, message in (
        ("a.npy", "a.npy: holds a single array; an .npz with x_train, y_train, x_test, y_test is needed"),
        ("b.npz", "b.npz: holds a single array"),
        ("c.npz", "c.npz: is no .npz; an .npz with x_train"),
        ("", ": is a folder; an .npz with x_train, y_train, x_test, y_test is needed, or a folder of x_train.npy"),
    ):
        with pytest.raises(DataError) as error:
            arrays(str(tmp_path / name))
        assert message in str(error.value)
        assert str(error.value).startswith(str(tmp_path))


def test_a_damaged_compressed_file_is_named(tmp_path, npz):
    """Some bytes of a compressed array make the decompressor fail, others the checksum."""
    with np.load(npz()) as content:
        np.savez_compressed(tmp_path / "packed.npz", **content)
    whole, lines = (tmp_path / "packed.npz").read_bytes(), []
    for place in range(40, len(whole) - 600, 211):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "packed.npz").write_bytes(damaged)
        try:
            arrays(str(tmp_path / "packed.npz"))
        except DataError as error:
            lines.append(str(error))
    assert len(lines) > 10
    assert all(line.startswith(f"{tmp_path}/packed.npz: ") and "\n" not in line for line in lines)


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_truncated_file_is_named(npz, keep):
    path = npz()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="may be truncated"):
        arrays(str(path))


def test_an_npz_that_needs_pickle_is_refused(npz):
    with pytest.raises(DataError, match="cannot be read"):
        arrays(str(npz(y_test=np.array([{}] * 30, dtype=object))))


def write_mnist(folder, count=20):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
    return raw, images


def test_mnist_is_read_from_its_four_files(tmp_path):
    _, images = write_mnist(tmp_path)
    data = torchvision_arrays("mnist", str(tmp_path))
    assert np.array_equal(data.x_test[..., 0], images)
    assert data.num_classes == 10


def test_a_truncated_mnist_is_named(tmp_path):
    raw, _ = write_mnist(tmp_path)
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="mnist in .*: cannot be read"):
        torchvision_arrays("mnist", str(tmp_path))


def test_cifar_is_read_from_its_batches(tmp_path, monkeypatch):
    import torchvision.datasets as sets

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(sets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    data = torchvision_arrays("cifar10", str(tmp_path))
    assert data.x_train.shape == (50, 32, 32, 3)
    assert np.array_equal(data.x_test.transpose(0, 3, 1, 2).reshape(10, 3072), pixels)


@pytest.fixture
def write_svhn(tmp_path, monkeypatch):
    """Writes parts of SVHN in the form of its files: (H, W, 3, N), digits 1 to 9 and 10 for 0; returns the images."""
    from scipy.io import savemat

    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5: Path(path).is_file())

    def write(**counts):
        rng, images = np.random.default_rng(0), {}
        for part, count in counts.items():
            images[part] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            labels = np.arange(count, dtype=np.uint8) % 10 + 1
            content = {"X": images[part].transpose(1, 2, 3, 0), "y": labels[:, None]}
            savemat(tmp_path / f"{part}_32x32.mat", content)
        return images

    return write


def test_svhn_is_read_from_its_matrices(tmp_path, write_svhn):
    images = write_svhn(train=11, test=5)
    data = svhn(str(tmp_path))
    assert np.array_equal(data.x_train, images["train"])
    assert np.array_equal(data.x_test, images["test"])
    assert data.y_train.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]  # the digit 0 is class 10 in the files
    assert (data.num_classes, data.y_train.dtype) == (10, np.int64)


@pytest.mark.parametrize("packed", [False, True])
def test_the_extra_images_of_svhn_come_after_the_training_images(tmp_path, write_svhn, npz, packed):
    images = write_svhn(train=11, test=5, extra=12)
    if packed:  # the extra images are not in it, and are read from their own file
        parts = {"x_train": images["train"], "y_train": np.arange(1, 12) % 10}
        npz("svhn.npz", **parts, x_test=images["test"], y_test=np.arange(5))
        for part in ("train", "test"):
            (tmp_path / f"{part}_32x32.mat").unlink()
    data = svhn(str(tmp_path), extra=True)
    assert np.array_equal(data.x_train, np.concatenate([images["train"], images["extra"]]))
    assert data.y_train.tolist() == [*(np.arange(1, 12) % 10), *(np.arange(1, 13) % 10)]
    assert np.array_equal(data.x_test, images["test"])


def test_missing_and_damaged_extra_images_of_svhn_are_named(tmp_path, write_svhn):
    write_svhn(train=11, test=5)
    with pytest.raises(DataError, match=r"extra_32x32.mat not found in .*data.download=true.*data.extra=false"):
        svhn(str(tmp_path), extra=True)
    (tmp_path / "extra_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(DataError, match=r"svhn in .*: cannot be read, files may be missing or damaged"):
        svhn(str(tmp_path), extra=True)


def test_reading_the_extra_images_takes_no_more_than_twice_their_memory(tmp_path, write_svhn):
    write_svhn(train=300, test=100, extra=2000)
    svhn(str(tmp_path), extra=True)  # once, so that imports do not count
    tracemalloc.start()
    try:
        data = svhn(str(tmp_path), extra=True)
        assert tracemalloc.get_traced_memory()[1] < 2.3 * (data.x_train.nbytes + data.x_test.nbytes)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("read", [lambda root: torchvision_arrays("cifar100", root), svhn])
def test_a_missing_set_says_how_to_get_it(tmp_path, read):
    with pytest.raises(DataError, match="not found in .*npz.*TRAINOPT_DATA.*data.download=true"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", r"MNIST/raw/\*-ubyte"),
        ("fashion_mnist", r"FashionMNIST/raw/\*-ubyte"),
        ("cifar10", r"cifar-10-batches-py/\*"),
        ("cifar100", r"cifar-100-python/\*"),
        ("svhn", r"\*_32x32.mat"),
    ],
)
def test_a_download_without_a_network_says_which_files_are_to_be_brought(tmp_path, monkeypatch, name, files):
    def refuse(*arguments, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    expected = rf"^{name}: cannot be downloaded, there is no connection to the server \(.*Name or service not known"
    expected += rf".*\); put {name}.npz or torchvision's files \({files}\) into {tmp_path}: on a machine with a"
    expected += f" network, data={name} data.download=true data.root=DIR fetches these files into DIR$"
    with pytest.raises(DataError, match=expected):
        svhn(str(tmp_path), True) if name == "svhn" else torchvision_arrays(name, str(tmp_path), True)


def test_an_npz_in_the_root_takes_precedence(tmp_path, npz):
    write_mnist(tmp_path)
    npz("mnist.npz", shape=(4, 4))
    assert torchvision_arrays("mnist", str(tmp_path)).input_shape == (1, 4, 4)


def test_the_real_sets_are_those_of_the_papers(real_data):
    mnist = torchvision_arrays("mnist", str(real_data))
    assert (len(mnist.y_train), len(mnist.y_test), mnist.input_shape) == (60_000, 10_000, (1, 28, 28))
    assert mnist.x_train.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    cifar = torchvision_arrays("cifar10", str(real_data))
    assert len(cifar.y_train) == 50_000
    assert cifar.x_train.mean((0, 1, 2)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


def test_a_function_of_the_user_may_return_arrays():
    images, labels = np.zeros((4, 2, 2), np.uint8), np.arange(4)
    data = Arrays(images, labels, images, labels, where="user")
    assert data.x_train.shape == (4, 2, 2, 1)


def standardised(inputs, train):
    """By scikit-learn, on the training samples."""
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit(inputs[train]).transform(inputs).astype(np.float32)


def test_tumours_are_those_of_scikit_learn():
    from sklearn.datasets import load_breast_cancer

    theirs, data = load_breast_cancer(), breast_cancer()
    test = class_balanced(theirs.target, 114)
    train = np.delete(np.arange(569), test)
    inputs = standardised(theirs.data, train)
    np.testing.assert_allclose(data.x_train, inputs[train], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.x_test, inputs[test], rtol=1e-5, atol=1e-6)
    assert np.array_equal(data.y_train, theirs.target[train])
    assert np.array_equal(data.y_test, theirs.target[test])
    assert np.bincount(data.y_test).tolist() == [42, 72]  # of 212 and 357
    assert (data.num_classes, data.num_outputs, data.input_shape) == (2, 2, (30,))


def test_patients_are_those_of_scikit_learn():
    from sklearn.datasets import load_diabetes

    data = diabetes()
    features, target = load_diabetes(return_X_y=True, scaled=False)
    assert data.x_train.shape == (354, 10)
    assert data.y_test.shape == (88, 1)
    assert (data.num_classes, data.num_outputs, data.input_shape) == (None, 1, (10,))
    test = class_balanced(np.argsort(np.argsort(target, kind="stable")) * 10 // 442, 88)
    train = np.delete(np.arange(442), test)
    pairs = [(features, data.x_train, data.x_test), (target[:, None], data.y_train, data.y_test)]
    for values, of_train, of_test in pairs:
        ours = standardised(values, train)
        np.testing.assert_allclose(of_train, ours[train], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(of_test, ours[test], rtol=1e-5, atol=1e-6)
    assert np.std(target[train]) == pytest.approx(77, abs=0.5)  # what the YAML says of the unit
    edges = np.quantile(target, np.linspace(0, 1, 11))
    in_each_decile = np.histogram(target[test], edges)[0]
    assert in_each_decile.min() >= 7
    assert in_each_decile.max() <= 11


@pytest.mark.parametrize(("p", "train_fraction"), [(7, 0.5), (5, 0.3), (2, 0.5)])
def test_equations_are_all_sums_modulo_p_once(p, train_fraction):
    data = modular_addition(p, train_fraction)
    rows = np.concatenate([np.c_[data.x_train, data.y_train], np.c_[data.x_test, data.y_test]]).tolist()
    assert sorted(map(tuple, rows)) == [(a, b, p, (a + b) % p) for a in range(p) for b in range(p)]
    assert len(data.x_train) == round(train_fraction * p * p)
    counts = np.bincount(data.y_train, minlength=p)
    assert counts.max() - counts.min() <= 1


def test_modular_additions_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="must be >= 2"):
        modular_addition(1)
    with pytest.raises(ValueError, match="puts 0 of 9 equations into training; change it"):
        modular_addition(3, 0.01)
