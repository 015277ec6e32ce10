"""The model card of an export: what the network is, how good, how it was trained, and how it is loaded."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..comparison.significance import Estimate, estimate
from ..records.job_table import read_jobs, sweep_jobs
from ..records.run_folder import CONFIG, DONE, identity, read_config, read_summary
from ..reporting.tables import markdown
from ..state.run import Run
from ..system.files import read_json
from .formats import Exported
from .inputs import fenced, input_text

POSITIONS = ("step", "epoch")
SECTIONS_LEFT_OUT = ("logger", "run", "keep_checkpoints")  # of the configuration, as they have no effect on weights


def model_card(
    folder: Path, exported: Exported, run: Run, weights: str, results: dict[str, dict[str, Any]], ways: list[str]
) -> str:
    """Returns the card, in Markdown with the front matter of the Hugging Face Hub.

    Args:
        folder: the run's.
        exported: the network.
        run: with the weights of the checkpoint.
        weights: which they are, as in `the weights of last.pt`.
        results: metrics of these weights on each evaluation set.
        ways: in which it can be loaded, as of `write_network`.
    """
    config, choices = exported.config, exported.choices
    summary, environment = read_summary(folder), read_json(folder / "environment.json")
    library = "timm" if "timm" in ways else "pytorch"
    front = ["---", f"library_name: {library}", "tags:", "- trainopt", *(["- timm"] if library == "timm" else [])]
    front += ["# license: to be filled in before this is published", "---", ""]
    title = f"{config.model.name if exported.is_timm else choices['model']} on {choices['data']}"
    parameters = sum(p.numel() for p in exported.network.parameters())
    lines = [
        *front,
        f"# {title}",
        "",
        f"{network_name(exported)}, {parameters:,} parameters, trained on {choices['data']} with"
        f" {choices['optimizer']}; {weights} (step {run.progress.step:,}) of the run"
        f" `{folder.resolve().name}` of trainopt {environment.get('versions', {}).get('trainopt', '')}.",
        "",
        "## Results",
        "",
        *results_table(results, {kind: len(source) for kind, source in run.evaluation_sets.items()}),
        *seeds_table(folder, config),
        "## Use",
        "",
        *usage(exported, ways),
        *input_text(run, config.data),
        "## Training",
        "",
        *facts_table(config, choices, summary, environment, run),
        "The configuration:",
        "",
        "```yaml",
        *OmegaConf.to_yaml(without(config, SECTIONS_LEFT_OUT)).splitlines(),
        "```",
        "",
        "## Licence",
        "",
        "To be filled in, together with the terms of the data set.",
        "",
    ]
    return "\n".join(lines)


def network_name(exported: Exported) -> str:
    """Returns timm's name of a network, or that of its option."""
    return f"timm's `{exported.config.model.name}`" if exported.is_timm else f"`{exported.choices['model']}`"


def numbers_of(row: dict[str, Any]) -> dict[str, float]:
    """Returns the metrics in a row that are numbers."""
    return {
        name: value
        for name, value in row.items()
        if name not in POSITIONS and isinstance(value, int | float) and not isinstance(value, bool)
    }


def table(header: list[str], rows: Iterable[Iterable[Any]], left: tuple[int, ...] = (0,)) -> list[str]:
    """Returns the lines of a table in Markdown, with an empty one after it; `left` are its left-aligned columns."""
    return [*markdown(header, [list(map(str, row)) for row in rows], left).splitlines(), ""]


def results_table(results: dict[str, dict[str, Any]], sizes: dict[str, int]) -> list[str]:
    """Returns the metrics of the exported weights on each evaluation set."""
    names = list(dict.fromkeys(name for row in results.values() for name in numbers_of(row)))
    rows = [
        [kind, f"{sizes[kind]:,}", *(f"{row[name]:.4g}" if name in row else "" for name in names)]
        for kind, row in results.items()
    ]
    return table(["set", "samples", *names], rows)


def seeds_table(folder: Path, config: DictConfig) -> list[str]:
    """Returns the final metrics over the seeds of a sweep, if there are several of this configuration."""
    finals, diverged = finals_of_seeds(folder, config)
    if len(finals) < 2:
        return []
    names = list(dict.fromkeys(name for final in finals.values() for name in numbers_of(final)))
    estimates = {name: estimate([final[name] for final in finals.values() if name in final]) for name in names}
    seeds = ", ".join(map(str, sorted(finals)))
    apart = f"; {diverged} more diverged and {'is' if diverged == 1 else 'are'} not in it" if diverged else ""
    text = f"At the end of {len(finals)} runs of this configuration that differ in their seed alone ({seeds}){apart}:"
    rows = [[name, *cells_of(value)] for name, value in estimates.items()]
    return [text, "", *table(["metric", "mean", "standard deviation", "95 % interval of the mean"], rows)]


def cells_of(value: Estimate) -> list[str]:
    """Returns mean, standard deviation and interval as text."""
    return [f"{value.mean:.4g}", f"{value.std:.2g}", f"{value.low:.4g} to {value.high:.4g}"]


def finals_of_seeds(folder: Path, config: DictConfig) -> tuple[dict[int, dict[str, Any]], int]:
    """Returns the final metrics by seed of the finished runs of a sweep that differ from a run in their seed alone.

    Args:
        folder: the run's, which may be of a sweep.
        config: the run's.

    Returns:
        They, and the number of such runs that diverged.
    """
    place = folder.resolve()
    jobs = sweep_jobs([place])
    folders = [place]
    if place in jobs:
        sweep = jobs[place][0]
        folders = [sweep / job["folder"] for job in read_jobs(sweep)]
    ours = {**identity(config), "seed": None}
    finals, diverged = {}, 0
    for other in folders:
        summary = read_summary(other)
        if not (other / CONFIG).is_file() or summary.get("status") not in DONE:
            continue
        theirs = read_config(other)[0]
        if {**identity(theirs), "seed": None} != ours:
            continue
        if summary["status"] == "diverged":
            diverged += 1
        else:
            finals[theirs.seed] = summary.get("final") or {}
    return finals, diverged


def facts_table(
    config: DictConfig, choices: dict[str, Any], summary: dict[str, Any], environment: dict[str, Any], run: Run
) -> list[str]:
    """Returns how the network was trained."""
    first = [*environment.get("earlier", []), environment][0]
    where = environment.get("gpu") or environment.get("cpu") or environment.get("device")
    lr = config.optimizer.get("lr")
    facts = {
        "data": f"{choices['data']}, {len(run.training_set):,} training samples",
        "augmentation": choices["augmentation"],
        "optimizer": f"{choices['optimizer']}{'' if lr is None else f', lr {lr}'}, schedule {choices['schedule']}",
        "length": f"{run.progress.step:,} steps, {run.progress.epochs:.4g} epochs; duration {config.duration}",
        "averaging": choices.get("averaging"),
        "batch size": config.batching.get("size"),
        "seed, precision": f"{config.seed}, {config.precision}",
        "training time": f"{summary['train_seconds']:.4g} s" if "train_seconds" in summary else None,
        "where": where,
        "versions": ", ".join(f"{name} {version}" for name, version in first.get("versions", {}).items() if version),
        "commit": first.get("commit"),
        "command": ", then ".join(f"`{shlex.join(command)}`" for command in commands_of(environment)) or None,
    }
    return table(["", ""], [[name, value] for name, value in facts.items() if value not in (None, "")], left=(0, 1))


def commands_of(environment: dict[str, Any]) -> list[list[str]]:
    """Returns the command that began a run, and those that made another run of it, as a longer one."""
    commands = [one["command"] for one in [*environment.get("earlier", []), environment] if one.get("command")]
    changes = [words for words in commands[1:] if words[1:2] == ["resume"] and any("=" in word for word in words[3:])]
    return [*commands[:1], *changes]


def without(config: DictConfig, names: tuple[str, ...]) -> DictConfig:
    """Returns a configuration without some sections."""
    return OmegaConf.create({key: value for key, value in config.items() if str(key) not in names})


def usage(exported: Exported, ways: list[str]) -> list[str]:
    """Returns the code that loads the network; `folder` in it is that of the card."""
    lines = []
    if "timm" in ways:
        lines += fenced(TIMM_CODE.splitlines())
    if "program" in ways:
        lines += ["With PyTorch alone:", "", *fenced(PROGRAM_CODE.splitlines())]
    if "class" in ways:
        module, _, name = exported.config.model["_target_"].rpartition(".")
        code = CLASS_CODE.format(module=module, name=name)
        also = "To train it further, or" if "program" in ways else "To load it,"
        package = "trainopt" if module.startswith("trainopt.") else module.partition(".")[0]
        lines += [f"{also} with the weights by their names ({package} is needed):", "", *fenced(code.splitlines())]
    return lines


TIMM_CODE = """\
import timm
import torch

folder = "."
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
"""
PROGRAM_CODE = """\
import torch

folder = "."
model = torch.export.load(f"{folder}/model.pt2").module()  # in evaluation mode
"""
CLASS_CODE = """\
import json

import torch
from safetensors.torch import load_file
from {module} import {name}

folder = "."
with open(f"{{folder}}/config.json") as file:
    arguments = json.load(file)["trainopt"]["arguments"]
model = {name}(**arguments)
model.load_state_dict(load_file(f"{{folder}}/model.safetensors"))
model.eval()
"""
