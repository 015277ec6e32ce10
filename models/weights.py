"""Weights from files."""

import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
PREFIXES = ("module.", "_orig_mod.")


class WeightsError(Exception):
    """Weights that are missing, cannot be read, or do not fit; one line says which and what would be right."""


class DamagedFile(WeightsError):
    """A file of which torch.save wrote only a part, or that changed since."""


def load_weights(network: nn.Module, path: str, apart: Sequence[str] = ()) -> None:
    """Loads a network's weights from a file.

    Takes .safetensors, and .pt, .pth or .th with or without a level such as `state_dict` and a prefix such as
    `module.` on every name. Nothing but tensors and plain values is ever unpickled. A network whose attribute
    `parts_left_out` names layers that it was built without may be given their weights.

    Args:
        network: changed.
        path: the file.
        apart: names of layers that keep the weights that they have, whatever the file holds in their place.

    Raises:
        WeightsError: the file is missing or cannot be read, or names or shapes differ; they are listed.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(f"{file}: no such file; model.weights takes null, pretrained or a file")
    passed_over = tuple(f"{layer}." for layer in (*apart, *getattr(network, "parts_left_out", ())))
    given = {n: value for n, value in _read(file).items() if not n.startswith(passed_over)}
    wanted = {n: value for n, value in network.state_dict().items() if not n.startswith(passed_over)}
    missing = [n for n in wanted if n not in given and not n.endswith("num_batches_tracked")]
    unknown = [n for n in given if n not in wanted]
    shapes = [
        f"{n} {tuple(given[n].shape)} instead of {tuple(wanted[n].shape)}"
        for n in wanted
        if n in given and given[n].shape != wanted[n].shape
    ]
    wrong = [
        f"{len(names)} {what}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if wrong:
        raise WeightsError(f"{file}: does not fit the network: {'; '.join(wrong)}")
    network.load_state_dict(given, strict=False)


def safe_load(file: Path) -> Any:
    """Returns what torch.save wrote to a file, unpickling nothing but tensors and plain values.

    Checksums are compared, which torch.load does not do: a flipped bit in a weight is found.

    Raises:
        DamagedFile: the file is cut off or altered.
        WeightsError: it asks for more than tensors and plain values to be unpickled.
    """
    try:
        _check_sums(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unusual pickle is either read or refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file}: refused, it asks for more than tensors and plain values to be read, or is damaged"
        ) from error
    except (RuntimeError, OSError, ValueError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{file}: cannot be read ({' '.join(str(error).split())[:120]})") from error


def _check_sums(file: Path) -> None:
    """Raises ValueError unless a file is one of torch.save: a zip archive as it was written, or an old pickle."""
    with open(file, "rb") as opened:
        start = opened.read(2)
    if start[:1] == pickle.PROTO:  # as before torch 1.6; it has no checksums
        return
    if start != b"PK":
        raise ValueError("it is no file of torch.save")
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, ArithmeticError) as error:
        raise ValueError(f"it is cut off or altered: {error}") from error
    if bad is not None:
        raise ValueError(f"it was altered: the checksum of {bad} is another")


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
    for level in LEVELS:
        if isinstance(content, dict) and isinstance(content.get(level), dict):
            content = content[level]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{file}: holds no weights; a dict of names and tensors is needed")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content
