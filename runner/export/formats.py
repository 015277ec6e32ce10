"""The files that a network is loaded from: timm's, or a program of torch.export; each is loaded once and compared."""

import inspect
import warnings
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..config.instantiate import find
from ..system.errors import UserError, one_line
from ..system.files import write_json

WEIGHTS_FILE, CONFIG_FILE, PROGRAM_FILE = "model.safetensors", "config.json", "model.pt2"
MARK = "trainopt"  # the section of config.json by which an export is known
TIMM = "trainopt.models.timm_network"
OF_TIMMS_WEIGHTS = ("tag", "license", "origin_url", "paper_ids", "paper_name", "notes", "url", "hf_hub_id")
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # tolerance of outputs, in float32; other kernels round otherwise


@dataclass
class Exported:
    """A network and what it takes.

    Attributes:
        network: in evaluation mode.
        config: of its run.
        choices: of the run.
        input_shape: of an input, without the batch; (C, H, W) of images.
        input_dtype: of inputs.
        num_outputs: that the network was built for.
        num_tokens: number of different tokens in inputs; None: inputs are none.
        mean, std: of images, per channel, on the [0, 1] scale; None: inputs are no images.
        crop_pct: fraction of a test image's side that is read.
        interpolation: with which images are resized.
    """

    network: nn.Module
    config: DictConfig
    choices: dict[str, Any]
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype
    num_outputs: int
    num_tokens: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_pct: float = 1.0
    interpolation: str = "bilinear"

    @property
    def is_timm(self) -> bool:
        """Whether timm makes the network by its name."""
        return self.config.model.get("_target_") == TIMM

    def inputs(self, count: int) -> Tensor:
        """Returns random inputs, the same in every call."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, *self.input_shape)
        if self.input_dtype.is_floating_point:
            return torch.randn(shape, generator=generator, dtype=self.input_dtype)
        return torch.randint(0, self.num_tokens or 2, shape, generator=generator, dtype=self.input_dtype)

    def image_config(self) -> dict[str, Any]:
        """Returns what timm's config.json says of images; empty where inputs are no images."""
        if self.mean is None:
            return {}
        return {
            "input_size": list(self.input_shape),
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": "center",
        }


def write_network(exported: Exported, folder: Path, about: dict[str, Any]) -> list[str]:
    """Writes the files that a network is loaded from, loads them, and compares the outputs.

    Args:
        exported: the network.
        folder: an empty one.
        about: the section of config.json that says where the network is from.

    Returns:
        The ways in which it can be loaded: `timm`; or `program` and `class`, of which there may be none.

    Raises:
        UserError: timm does not load the same network.
    """
    if exported.is_timm:
        write_timm(exported, folder, about)
        return ["timm"]
    return write_plain(exported, folder, about)


def write_plain(exported: Exported, folder: Path, about: dict[str, Any]) -> list[str]:
    """Writes a network that timm does not know, as `write_network` does."""
    weights = {name: value.detach().contiguous().clone() for name, value in exported.network.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE, {"format": "pt"})
    arguments = class_arguments(exported, folder)
    problem = write_program(exported, folder)
    if arguments is not None:
        about |= {"class": exported.config.model["_target_"], "arguments": arguments}
    images = exported.image_config()
    content = {"architecture": exported.choices["model"], "num_classes": exported.num_outputs}
    write_json(folder / CONFIG_FILE, {**content, **({"pretrained_cfg": images} if images else {}), MARK: about})
    share(folder)
    ways = [*(["program"] if problem is None else []), *(["class"] if arguments is not None else [])]
    if not ways:
        raise UserError(f"model: the network cannot be exported for torch.export.load ({problem})")
    return ways


def write_timm(exported: Exported, folder: Path, about: dict[str, Any]) -> None:
    """Writes what timm loads from the Hugging Face Hub or from a folder.

    Raises:
        UserError: timm loads another network from it.
    """
    import timm
    from timm.models import save_for_hf

    network: Any = deepcopy(exported.network)
    past = dict(network.pretrained_cfg)
    if exported.config.model.get("weights") != "pretrained":  # it has nothing of the weights that timm offers
        past = {key: value for key, value in past.items() if key not in OF_TIMMS_WEIGHTS}
    network.pretrained_cfg = {**past, **exported.image_config()}
    save_for_hf(network, str(folder), {MARK: about}, safe_serialization=True)
    share(folder)
    try:
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
        problem = difference(loaded.eval(), exported)
    except Exception as error:  # noqa: BLE001 - whatever timm raises, the file is of no use
        problem = one_line(error)[:200]
    if problem is not None:
        raise UserError(f"model: timm does not load the network that was exported ({problem})")


def share(folder: Path) -> None:
    """Gives the file of weights, which safetensors writes for its owner alone, the mode of the other files."""
    (folder / WEIGHTS_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)


def write_program(exported: Exported, folder: Path) -> str | None:
    """Writes the network as a program that plain PyTorch runs; returns why that cannot be, or None."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # what torch's own code warns of
            batch = torch.export.Dim("batch", min=1)
            program = torch.export.export(exported.network, (exported.inputs(3),), dynamic_shapes=({0: batch},))
            torch.export.save(program, str(folder / PROGRAM_FILE))
            problem = difference(torch.export.load(str(folder / PROGRAM_FILE)).module(), exported)
    except Exception as error:  # noqa: BLE001 - a network that somebody wrote may do what no program can
        problem = one_line(error)[:200] or type(error).__name__
    if problem is not None:
        (folder / PROGRAM_FILE).unlink(missing_ok=True)
    return problem


def class_arguments(exported: Exported, folder: Path) -> dict[str, Any] | None:
    """Returns the arguments with which the network's class makes one that takes the weights; None where it does not."""
    target = find(exported.config.model, "model")
    names = inspect.signature(target).parameters
    typed = OmegaConf.to_container(exported.config.model)
    assert isinstance(typed, dict)
    shape = list(exported.input_shape)
    offered: dict[str, Any] = {
        "num_classes": exported.num_outputs,
        "input_shape": shape,
        "image_shape": shape,
        "in_channels": shape[0],
    }
    offered["num_tokens"] = exported.num_tokens
    arguments = {str(name): value for name, value in {**typed, **offered}.items() if name in names}
    try:
        network = target(**arguments)
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return arguments if difference(network.eval(), exported) is None else None
    except Exception:  # noqa: BLE001 - as of `write_program`
        return None


@torch.no_grad()
def difference(loaded: nn.Module, exported: Exported) -> str | None:
    """Returns how the outputs of a loaded network differ from those of the exported one; None: they do not."""
    inputs = exported.inputs(2)
    ours, theirs = exported.network(inputs), loaded(inputs)
    if ours.shape == theirs.shape and torch.allclose(ours, theirs, RELATIVE, ABSOLUTE):
        return None
    return f"its outputs differ by up to {(ours - theirs).abs().max().item():.3g}"
