"""What a network takes: the code of the model card that makes inputs as evaluations do, and the same for timm."""

from typing import Any

import torch
from omegaconf import DictConfig

from trainopt.data import DatasetSource, FolderSource, InMemory

from ..state.run import Run


def image_facts(run: Run) -> dict[str, Any]:
    """Returns what is done to images before the network gets them; empty where inputs are no images."""
    source: Any = run.training_set  # those of evaluations may be features
    if isinstance(source, FolderSource):
        crop = {"crop_pct": source.crop_pct, "interpolation": source.interpolation}
        return {"mean": source.mean, "std": source.std, **crop}
    if are_images(source):
        return {"mean": source.mean, "std": source.std}
    return {}


def are_images(source: Any) -> bool:
    """Returns whether a source normalises images a batch at a time."""
    return isinstance(source, InMemory) or (isinstance(source, DatasetSource) and source.form.is_images)


def input_text(run: Run, options: DictConfig) -> list[str]:
    """Returns the part of the model card that says how inputs are made from samples; `options` are `data`'s."""
    source: Any = run.training_set
    shape = f"({', '.join(['B', *map(str, run.input_shape)])})"
    if isinstance(source, FolderSource):
        code = code_of_files(source, run.input_shape[-1])
        return [f"Inputs are images of shape {shape}, float32, made from files:", "", *fenced(code)]
    if are_images(source):
        code = code_of_images(source, options)
        return [f"Inputs are images of shape {shape}, float32, made as follows:", "", *fenced(code)]
    tokens = f", tokens from 0 to {run.num_tokens - 1}" if run.num_tokens else ""
    return [
        f"Inputs are of shape {shape}, {name_of(run.input_dtype)}{tokens}, as `{options._target_}` returns them:"
        " the run does not scale them. What that function does to them (standardising, say) is part of every input.",
        "",
    ]


def code_of_images(source: InMemory | DatasetSource, options: DictConfig) -> list[str]:
    """Returns the code for images that a run normalises and resizes a batch at a time."""
    channels = source.shape[0]
    if isinstance(source, DatasetSource):
        raw = ", ".join(["B", *map(str, source.form.input_shape)])
        kind = name_of(source.form.input_dtype)
        lines = [f"# images: a tensor ({raw}), {kind}, channels first: inputs of the Dataset, after its own transforms"]
    else:
        pad, repeated = options.pad, options.channels is not None
        raw = ", ".join(["B", *(str(side - 2 * pad) for side in source.shape[1:]), "C" if repeated else str(channels)])
        kind = "uint8" if source.white != 1 else "float32"
        lines = [f"# images: a tensor ({raw}), {kind}, as in the data set", "images = images.permute(0, 3, 1, 2)"]
        lines += [f"images = images.repeat(1, {channels} // images.shape[1], 1, 1)"] * repeated
        lines += [f"images = torch.nn.functional.pad(images, [{pad}] * 4)"] * (pad > 0)
    pixels = "images / 255" if source.white != 1 else "images.float()"
    if set(source.mean) == {0.0} and set(source.std) == {1.0}:
        lines += [f"inputs = {pixels}"]
    else:
        lines += [f"{name} = torch.tensor({rounded(getattr(source, name))}).view(-1, 1, 1)" for name in ("mean", "std")]
        lines += [f"inputs = ({pixels} - mean) / std"]
    if source.size is not None:
        size = f"({source.size}, {source.size})"
        lines += [f'inputs = torch.nn.functional.interpolate(inputs, {size}, mode="bilinear", antialias=True)']
    return [*lines, "with torch.no_grad():", "    outputs = model(inputs)"]


def code_of_files(source: FolderSource, size: int) -> list[str]:
    """Returns the code for files of images."""
    white = source.images.white
    deep = [] if white is None else [f"# with more than 8 bits: values * 255 / {white:g}, rounded, as 8 bits"]
    return [
        "import timm",
        "from PIL import Image",
        "",
        f"transform = timm.data.create_transform({size}, crop_pct={source.crop_pct},",
        f'    interpolation="{source.interpolation}", mean={rounded(source.mean)}, std={rounded(source.std)})',
        *deep,
        'image = Image.open("image.png").convert("RGB")  # transparent ones: composited on white first',
        "with torch.no_grad():",
        "    outputs = model(transform(image).unsqueeze(0))",
    ]


def rounded(values: list[float]) -> list[float]:
    """Returns numbers as float32 tells them apart."""
    return [float(f"{value:.9g}") for value in values]


def name_of(dtype: torch.dtype) -> str:
    """Returns the name of a type of numbers."""
    return str(dtype).removeprefix("torch.")


def fenced(code: list[str]) -> list[str]:
    """Returns lines of Python as a block in Markdown, with an empty line after it."""
    return ["```python", *code, "```", ""]
