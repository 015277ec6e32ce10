"""Weights from files."""

import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
PREFIXES = ("module.", "_orig_mod.")


class WeightsError(Exception):
    """Weights are missing, cannot be read, or do not fit the network; one line says what is wrong."""


class DamagedFile(WeightsError):
    """A file of torch.save is cut off or was altered."""


def load_weights(network: nn.Module, path: str, exclude: Sequence[str] = ()) -> None:
    """Loads a network's weights from a file.

    The file is .safetensors, or .pt, .pth or .th with or without a level such as `state_dict` and prefixes such as
    `module.` on every name. Of a run's checkpoint with averaged weights, these are loaded. Only tensors and plain
    values are ever unpickled. The file may contain weights of layers that the network's attribute `parts_left_out`
    names; they are ignored.

    Args:
        network: gets the weights.
        path: the file.
        exclude: names of layers that keep their current weights.

    Raises:
        WeightsError: the file is missing or cannot be read, or names or shapes differ; they are listed.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(f"{file}: no such file; model.weights takes null, pretrained or a file")
    ignored = tuple(f"{layer}." for layer in (*exclude, *getattr(network, "parts_left_out", ())))
    weights = network.state_dict()
    loaded = {n: value for n, value in _without_prefixes(_read(file), weights).items() if not n.startswith(ignored)}
    expected = {n: value for n, value in weights.items() if not n.startswith(ignored)}
    missing = [n for n in expected if n not in loaded and not n.endswith("num_batches_tracked")]
    unknown = [n for n in loaded if n not in expected]
    shapes = [
        f"{n} {tuple(loaded[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in expected
        if n in loaded and loaded[n].shape != expected[n].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise WeightsError(f"{file}: does not fit the network: {'; '.join(problems)}")
    network.load_state_dict(loaded, strict=False)


def safe_load(file: Path) -> Any:
    """Returns the content of a file of torch.save; only tensors and plain values are unpickled.

    Unlike torch.load, it compares checksums, which detect a flipped bit in a weight.

    Raises:
        DamagedFile: the file is cut off or altered.
        WeightsError: the file contains other objects than tensors and plain values.
    """
    try:
        _check_sums(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle, which is either read or refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file}: refused, as it contains other objects than tensors and plain values, or is damaged"
        ) from error
    except (RuntimeError, OSError, ValueError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{file}: cannot be read ({' '.join(str(error).split())[:120]})") from error


def _check_sums(file: Path) -> None:
    """Raises ValueError unless a file is an unaltered zip archive of torch.save, or an old pickle."""
    with open(file, "rb") as opened:
        start = opened.read(2)
    if start[:1] == pickle.PROTO:  # as before torch 1.6; it has no checksums
        return
    if start != b"PK":
        raise ValueError("it is not a file of torch.save")
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, ArithmeticError) as error:
        raise ValueError(f"it is cut off or altered: {error}") from error
    if bad is not None:
        raise ValueError(f"it was altered: the checksum of {bad} differs")


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content: Any = load_file(file)
        except SafetensorError as error:
            raise WeightsError(f"{file}: cannot be read as safetensors ({error})") from error
    else:
        content = safe_load(file)
    averaging = content.get("averaging") if isinstance(content, dict) else None
    if isinstance(averaging, dict) and "model" in averaging:  # a checkpoint of a run that is evaluated there
        content = averaging
    for level in LEVELS:
        if isinstance(content, dict) and isinstance(content.get(level), dict):
            content = content[level]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{file}: holds no weights; a dict of names and tensors is needed")
    return content


def _without_prefixes(content: dict[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """Returns weights without prefixes that all their names have, as long as no name is a known one."""
    while content.keys().isdisjoint(known):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in content)), None)
        if prefix is None:
            break
        content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content
