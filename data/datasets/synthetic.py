"""Synthetic images with a class structure that a network can learn."""

import numpy as np

from .arrays import Arrays


def synthetic(
    num_classes: int = 10,
    image_shape: tuple[int, int, int] | list[int] = (3, 32, 32),
    train_size: int = 2048,
    test_size: int = 512,
    noise: float = 0.5,
    data_seed: int = 0,
) -> Arrays:
    """Returns images of one smooth random pattern per class, with Gaussian noise.

    Args:
        num_classes: number of classes; every class is about equally frequent.
        image_shape: (C, H, W).
        train_size: number of training images.
        test_size: number of test images.
        noise: standard deviation of the noise, in units of the patterns' standard deviation.
        data_seed: of patterns, noise and labels.
    """
    channels, height, width = image_shape
    rng = np.random.default_rng(data_seed)
    coarse = rng.standard_normal((num_classes, -(-height // 4), -(-width // 4), channels))
    patterns = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.permutation(np.arange(size) % num_classes)
        images = patterns[labels] + noise * rng.standard_normal((size, height, width, channels))
        return np.clip(128 + 40 * images, 0, 255).astype(np.uint8), labels

    return Arrays(*draw(train_size), *draw(test_size), where="synthetic", num_classes=num_classes)
