"""What the start of a run prints about it."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainopt.data import Position

from ..config.forms.rules import yaml_text
from ..config.options import shipped_option
from ..state.run import Run
from ..system.device import describe_device
from ..system.files import shown

IMAGE_DIMS = 3  # of (C, H, W)


def describe_run(config: DictConfig, choices: dict[str, Any], run: Run, folder: Path) -> list[tuple[str, str]]:
    """Returns (name, value) of model, data, optimizer, length, device and folder.

    Args:
        config: of the run.
        choices: the chosen options, by group.
        run: built.
        folder: the run's.
    """
    features = [] if run.features is None else [("features", run.features)]
    changes, count = run.batching.describe(), count_batches(run)
    batches = f"{count} {'batch' if count == 1 else 'batches'} an epoch"
    is_function = run.objective.returns_loss
    precision = str(next(run.network.parameters()).dtype).removeprefix("torch.") if is_function else config.precision
    return [
        ("model", f"{choices.get('model')} ({_count_parameters(run)})"),
        ("data", f"{choices.get('data')}{'' if is_function else f' ({_count_images(run)})'}"),
        *features,
        ("optimizer", _describe_optimizer(config, choices, run)),
        ("length", f"{config.duration}, {batches}{' at first' if changes else ''}"),
        *([("batches", changes)] if changes else []),
        ("device", f"{describe_device(run.device)}, {precision}"),
        *([("ranks", run.ranks.describe())] if run.ranks.size > 1 else []),
        ("folder", shown(folder)),
    ]


def _count_parameters(run: Run) -> str:
    trainable = "" if run.parameters == run.trainable_parameters else f", {run.trainable_parameters:,} trained"
    return f"{run.parameters:,} parameters{trainable}"


def _count_images(run: Run) -> str:
    sets = ", ".join(f"{len(source):,} {kind}" for kind, source in run.evaluation_sets.items())
    shape = "x".join(map(str, run.input_shape))
    targets = f"{run.num_outputs:,} outputs" if run.num_classes is None else f"{run.num_classes:,} classes"
    samples = "images" if len(run.input_shape) == IMAGE_DIMS else "samples"
    return f"{len(run.training_set):,} training, {sets} {samples}; {shape}, {targets}"


def _describe_optimizer(config: DictConfig, choices: dict[str, Any], run: Run) -> str:
    """Returns the class, its learning rate, its other arguments that are not those of the option, and the schedule."""
    defaults = shipped_option("optimizer", str(choices.get("optimizer")))
    arguments: Any = OmegaConf.to_container(config.optimizer, resolve=True)
    others = [
        f", {key} {yaml_text(value)}"
        for key, value in arguments.items()
        if key not in ("_target_", "lr") and value != defaults.get(key)
    ]
    name = config.optimizer.get("_target_", "").rpartition(".")[2]
    lr = run.optimizer.param_groups[run.main_group].get("lr")
    at_first = "" if lr == config.optimizer.get("lr", lr) else " at first"
    rate = "" if lr is None else f", lr {float(lr):g}{at_first}"
    warmup = "" if config.schedule.warmup is None else f", warm-up over {config.schedule.warmup}"
    return f"{name}{rate}{''.join(others)}, schedule {choices.get('schedule')}{warmup}"


def count_batches(run: Run) -> int:
    """Returns the number of batches in an epoch, at first."""
    return sum(1 for _ in run.batching.spans_from(Position(), len(run.training_set)))
