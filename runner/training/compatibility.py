"""Checks that the components of a run are compatible, before the first batch.

Data and network are checked first, as the other components are built for both; then those, in the order of
`check_run`. What one component alone may be is checked where it is built.
"""

from collections.abc import Sequence
from inspect import Parameter, signature
from math import ceil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import LBFGS

from trainopt.data import Batching, DataSet, NoData, Position, Reconstruction
from trainopt.models import input_failure
from trainopt.optimizers import Optimizer, OptimizerAverage, Regularizer
from trainopt.optimizers.compat_torch import BATCH_NORM
from trainopt.optimizers.curvature.double_backward_mode import FastDoubleBackward

from ..config.durations import Duration, is_time
from ..config.instantiate import find
from ..data_sets.checks import changed_keys
from ..metrics.try_out import is_tried, try_out_loss, try_out_metrics
from ..objectives.loss import Loss
from ..records.changes import Change
from ..records.run_folder import read_summary
from ..state.early_stopping import EarlyStopping
from ..state.evaluation import first_predictions
from ..state.objective import returns_loss
from ..state.progress import Progress
from ..state.run import Probe, Run
from ..system.errors import UserError
from .evaluator import has_come


def check_run(config: DictConfig, run: Run) -> None:
    """Raises UserError, which names a key, where components of a run contradict each other."""
    run.early_stopping.check(run.evaluation_sets)
    check_time(config, run)
    check_schedule(config, run)
    check_batches(run)
    check_learning_rate(run)
    check_loss_and_metrics(config, run)
    check_loss_function(run)
    check_gradient(run)
    check_averaging(run)
    check_loss_scaling(run)
    check_probes(run.probes)
    check_control(run)
    note_idle_probes(run)
    if run.compiled:
        check_compile([run.optimizer, *run.probes.values()])


def check_time(config: DictConfig, run: Run) -> None:
    """Refuses what follows a time in a run that does not end by one, and batches that follow the time of one that does.

    The start of a run that ends by the clock gets a note.
    """
    text = f"duration={run.duration}"
    if not run.is_timed:
        for key in ("schedule.over", "schedule.period", "averaging.over"):
            value = OmegaConf.select(config, key)
            if is_time(value):
                raise UserError(
                    f"{key}={value}: is a time, and {text} is none; give epochs or steps, or duration={value}"
                )
        return
    if batching_follows_duration(run.batching):
        raise UserError(f"{text}: batching follows the length of the run in epochs or steps; give one of these")
    run.notes.append(
        f"{text} is time of training (the clock `train`: no evaluations, probes and checkpoints); the run ends with the"
        " first step at or after it. The same command makes another number of steps, so that the run is not repeatable"
    )


def batching_follows_duration(batching: Batching) -> bool:
    """Returns whether sizes or repeats of batches depend on the duration of the run."""
    if batching.follows_duration is not None:
        return batching.follows_duration
    return not {"duration", "levels"}.isdisjoint(signature(type(batching)).parameters)


def check_change(change: Change, run: Run, state: dict[str, Any], folder: Path) -> None:
    """Raises UserError where a change of the configuration would be one of the run's past.

    Args:
        change: of the keys of `records.changes`.
        run: with the configuration from now on, not yet at the state.
        state: that the run goes on from.
        folder: the run's.
    """
    if "duration" in change.before:
        check_longer(change, run, state, folder)
    check_goes_on(change, run, state)
    key = "evaluate_every"
    followers = follow_evaluations(run)
    if key in change.before and followers:
        raise UserError(f"{key}={run.evaluate_every}: {followers[0]} follows evaluations, which would have been others")


def check_goes_on(change: Change, run: Run, state: dict[str, Any]) -> None:
    """Refuses a change of a run that has no steps to come."""
    what = ", ".join(change.before)
    progress, stopping = Progress(run.progress.epoch_size), EarlyStopping(**change.config.early_stopping)
    progress.load_state_dict(state["progress"])
    stopping.load_state_dict(state["early_stopping"])
    if progress.elapsed(run.duration) >= 1:
        raise UserError(
            f"{what}: the run has no steps to come, after {progress.step} steps ({progress.epochs:g} epochs) of"
            f" duration={run.duration}; give a longer duration"
        )
    if stopping.ends:
        raise UserError(f"{what}: the run has no steps to come: {stopping.reason}")


def check_longer(change: Change, run: Run, state: dict[str, Any], folder: Path) -> None:
    """Refuses another duration for a run that has ended for good, or whose past followed its duration."""
    text, summary, before = f"duration={run.duration}", read_summary(folder), change.former.duration
    if is_time(before) != run.is_timed:
        raise UserError(f"{text}: the run had duration={before} until now; give a duration of the same kind")
    if run.range_test:
        raise UserError(f"{text}: a range test ends with its highest learning rate")
    if summary.get("status") == "diverged":
        raise UserError(f"{text}: the run diverged at step {summary.get('steps')}, and does not go on")
    terms = run.objective.regularizers
    followers = [f"regularizer.{name}" for name, (term, _) in terms.items() if term.follows_duration]
    if batching_follows_duration(run.batching):
        followers.append("batching")
    if followers:
        raise UserError(f"{text}: {followers[0]} follows the duration, so the run so far would be another")
    progress = Progress(run.progress.epoch_size)
    progress.load_state_dict(state["progress"])
    former, followers = change.former, follow_evaluations(run)
    is_at_end = progress.elapsed(former.duration) >= 1
    if is_at_end and followers and not has_come(former.evaluate_every, progress, run.batching.drop_last, folder):
        raise UserError(
            f"{text}: the run was evaluated at its end, step {progress.step}, where a longer one is not"
            f" (evaluate_every={former.evaluate_every}), and {followers[0]} followed that"
        )


def follow_evaluations(run: Run) -> list[str]:
    """Returns the keys of what follows evaluations in a run."""
    terms = run.objective.regularizers.items()
    return [
        *(["early_stopping.patience"] if run.early_stopping.patience is not None else []),
        *(["schedule"] if run.schedule.needs_validation else []),
        *(f"regularizer.{n}" for n, (t, _) in terms if type(t).after_evaluation is not Regularizer.after_evaluation),
    ]


def check_loss_and_metrics(config: DictConfig, run: Run) -> None:
    """Refuses a loss or a metric that does not take the outputs and targets, by those of some test samples."""
    if run.objective.returns_loss or not is_tried(run.objective.loss, run.metrics):
        return
    outputs, targets = first_predictions(run.network, run.evaluation_sets["test"], run.autocast)
    is_large = isinstance(run.training_set, Reconstruction)  # its targets are all inputs
    all_targets = targets if is_large else run.training_set.targets
    try_out_loss(config, run.objective.loss, outputs, targets, all_targets)
    if run.optimizer.needs_loss_function and not calls_loss_function(run.objective.loss, outputs, targets):
        raise UserError(
            f"optimizer.curvature=gauss_newton: {config.objective['_target_']} calls no loss function of"
            " torch.nn.functional (cross_entropy, mse_loss, …) on the outputs; use curvature=hessian"
        )
    try_out_metrics(run.metrics, outputs, targets, run.selection.metric)


def calls_loss_function(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Returns whether a loss is of the form that Gauss-Newton matrices need."""
    with FastDoubleBackward(split_at_outputs=True) as mode:
        loss(outputs.detach().requires_grad_(), targets)
    return bool(mode.outputs)


def check_data(config: DictConfig, data: DataSet, network: nn.Module) -> None:
    """Refuses data for a test function, no data for another network, and keys about images for a function."""
    if not isinstance(network, nn.Module):
        raise UserError(f"model: {config.model['_target_']} returns a {type(network).__name__}, must be an nn.Module")
    is_function, is_empty = returns_loss(network), isinstance(data, NoData)
    if is_empty and not is_function:
        raise UserError("data=none: the network needs data; give data=digits or another set, or model=function")
    if not is_function:
        return
    if not is_empty:
        raise UserError("model: the network is a function of its parameters alone; give data=none")
    if config.early_stopping.patience is not None:
        raise UserError(
            f"early_stopping.patience={config.early_stopping.patience}: there is no validation set;"
            " early_stopping.min_step_norm ends a run where its steps become short"
        )
    if config.get("metric"):
        raise UserError("metric: a test function has no outputs for a metric; leave it out")
    for section in ("data", "augmentation", "objective"):
        for key, value in changed_keys(config, section):
            if key not in ("root", "download"):
                raise UserError(f"{section}.{key}={value}: is for images, and a test function has none; leave it out")


def check_takes_inputs(config: DictConfig, shape: tuple[int, ...]) -> None:
    """Refuses a network that needs images where inputs are none."""
    parameters = signature(find(config.model, "model")).parameters
    for name in ("in_channels", "image_shape"):
        if name in parameters and parameters[name].default is Parameter.empty and name not in config.model:
            raise UserError(
                f"model: {config.model._target_} is for images, and inputs have the shape {list(shape)};"
                " give model=mlp, or another network that takes such inputs"
            )


def check_schedule(config: DictConfig, run: Run) -> None:
    """Refuses a schedule, early stopping and checkpoints at restarts where what they follow is missing."""
    if run.schedule.needs_validation and "validation" not in run.evaluation_sets:
        raise UserError("schedule: follows the validation set, and there is none; give data.validation=0.1")
    patience = config.early_stopping.patience
    if run.range_test and patience is not None:
        raise UserError(
            f"early_stopping.patience={patience}: the first learning rates of a range test improve nothing; give null"
        )
    if config.keep_checkpoints.at_restarts and run.schedule.cycles() is None:
        raise UserError(
            "keep_checkpoints.at_restarts=true: the schedule has no restarts;"
            " give schedule=cosine_restarts or cyclic, or false"
        )


def check_batches(run: Run) -> None:
    """Refuses batches that cannot be trained on."""
    batching, epoch_size = run.batching, run.progress.epoch_size
    sizes = batch_sizes(run)
    if not sizes or (batching.drop_last and batching.largest > epoch_size):
        raise UserError(f"batching.drop_last=true: an epoch of {epoch_size} images then holds no batch at all")
    if 1 not in (batching.smallest, min(sizes)) or takes_one_image(run):
        return
    if batching.smallest == 1 or max(sizes) == 1:
        raise UserError("batching: has batches of one image, which batch norm cannot train on; give larger sizes")
    raise UserError(
        f"batching: {epoch_size} images leave a batch of one image, which batch norm cannot train on;"
        " use batching.drop_last=true or another batching.size"
    )


def batch_sizes(run: Run) -> list[int]:
    """Returns the sizes of the batches of the first epoch."""
    return [stop - start for start, stop in run.batching.spans_from(Position(), run.progress.epoch_size)]


def has_batch_norm(network: nn.Module) -> bool:
    """Returns whether a network has batch norm that takes its statistics from training batches."""
    trained = [m for m in network.train().modules() if m.training]
    return any(isinstance(m, BATCH_NORM) for m in trained)


def takes_one_image(run: Run) -> bool:
    """Returns whether a batch may have one image: batch norm needs several, unless it has several positions in one."""
    if not has_batch_norm(run.network):
        return True
    return input_failure(run.network, run.input_shape, batch_size=1, dtype=run.input_dtype) is None


def check_loss_function(run: Run) -> None:
    """Refuses an optimizer that needs the loss function where the network returns the loss itself."""
    if run.optimizer.needs_loss_function and run.objective.returns_loss:
        raise UserError("optimizer.curvature=gauss_newton: a test function has no loss function; use curvature=hessian")


def check_gradient(run: Run) -> None:
    """Refuses clipping and accumulation where the gradient is not what the optimizer steps by."""
    for key in run.gradient.keys:
        name = type(run.optimizer).__name__
        if run.optimizer.needs_graph:
            raise UserError(f"{key}: {name} differentiates the loss itself; leave it out")
        if "clip" in key and run.optimizer.sets_lr:
            raise UserError(f"{key}: {name} computes its learning rate from the gradient's norm; leave it out")
        if "clip" in key and isinstance(run.optimizer, LBFGS):
            raise UserError(f"{key}: {name} learns the curvature from differences of gradients; leave it out")
    if run.gradient.clip_norm is not None and run.gradient.clip_value is not None:
        raise UserError(f"{', '.join(run.gradient.keys[:2])}: give one of the two")
    steps = run.gradient.accumulation_steps
    if steps > 1 and run.objective.returns_loss:
        raise UserError(f"gradient.accumulation_steps={steps}: a test function has no batches; give 1")
    if steps == 1 or not has_batch_norm(run.network):
        return
    smallest = min(part.stop - part.start for size in batch_sizes(run) for part in run.gradient.parts(size))
    if smallest == 1 and not takes_one_image(run):
        raise UserError(
            f"gradient.accumulation_steps={steps}: leaves parts of one image, which batch norm cannot train on;"
            " give a smaller number"
        )
    run.notes.append(f"batch norm takes its statistics from each of {steps} parts of a batch")


def check_loss_scaling(run: Run) -> None:
    """Refuses to scale the loss where gradients are not those of the closure alone."""
    if run.scaling is None:
        return
    right = "give precision=bf16 or float32"
    names = [type(run.optimizer).__name__] * run.optimizer.needs_graph + [f"probe.{name}" for name in run.probes]
    if names:
        raise UserError(f"precision=fp16: {names[0]} differentiates the loss itself, which is not scaled; {right}")


def check_averaging(run: Run) -> None:
    """Refuses an average over weights that lie apart on purpose, and one that would never begin."""
    if run.averaged is None:
        return
    averaging = run.averaged.averaging
    start = averaging.start
    if isinstance(start, str) and never_comes(start, run):
        raise UserError(f"averaging.start={start}: never comes in a run of {run.duration}; give a shorter one")
    if isinstance(averaging, OptimizerAverage):
        what, right = f"{type(run.optimizer).__name__} averages the weights", "give another optimizer"
    else:
        what, right = f"{type(averaging).__name__} averages the weights", "give averaging=none"
    for name, (regularizer, _) in run.objective.regularizers.items():
        if regularizer.leaves_minima:
            raise UserError(f"regularizer.{name}: drives the weights away, while {what}; {right}")
    if run.range_test and not isinstance(averaging, OptimizerAverage):
        raise UserError(f"averaging: {what}, and those of a range test become bad; {right}")


def check_probes(probes: dict[str, Probe]) -> None:
    """Refuses probes whose `every` is no duration, or none in steps with `each_epoch`."""
    for name, probe in probes.items():
        if not Duration.is_valid(probe.every) or is_time(probe.every):
            raise UserError(f"probe.{name}: its `every` is {probe.every}, and must be a duration, as in 50steps")
        if probe.each_epoch and Duration.parse(probe.every).unit != "steps":
            raise UserError(f"probe.{name}.each_epoch=true: counts steps; give probe.{name}.every=50steps")


def note_idle_probes(run: Run) -> None:
    """Notes the probes that measure nothing, as they are due after the end of the run."""
    for name, probe in run.probes.items():
        if not probe.each_epoch and never_comes(probe.every, run):
            run.notes.append(f"probe.{name}.every={probe.every} never comes in a run of {run.duration}: it has no rows")


def check_compile(plugins: Sequence[Optimizer | Probe]) -> None:
    """Refuses to compile for an optimizer or a probe that differentiates the gradient."""
    for plugin in plugins:
        if plugin.needs_graph:
            name = type(plugin).__name__
            raise UserError(
                f"compile=true: {name} needs the graph of the gradient, which compile leaves out; give false"
            )


def check_control(run: Run) -> None:
    """Refuses a batching that follows a probe where this is missing, or where nothing would ever be decided."""
    name, batching = run.batching.needs_probe, run.batching
    if name is None:
        return
    if name not in run.probes:
        raise UserError(f"batching: {type(batching).__name__} follows what a probe measures; give probe=[{name}]")
    for key, every in ((f"probe.{name}.every", run.probes[name].every), ("batching.every", batching.every)):
        if never_comes(every, run):
            raise UserError(f"{key}={every}: never comes in a run of {run.duration}; give a shorter one")


def never_comes(every: str, run: Run) -> bool:
    """Returns whether a duration is longer than a run, however large its batches will be."""
    one, whole = Duration.parse(every), Duration.parse(run.duration)
    batching, epoch_size = run.batching, run.progress.epoch_size
    smallest, largest = batching.smallest or batching.size, batching.largest or batching.size
    if one.unit == whole.unit:
        return one.amount > whole.amount
    if 0 in (smallest, largest) or run.is_timed:  # unknown
        return False
    if one.unit == "epochs":  # a step uses up a batch, and may leave out what remains of an epoch
        return one.amount * epoch_size > whole.amount * 2 * largest
    return one.amount > ceil(whole.amount) * ceil(epoch_size / smallest) * batching.most_repeats


def check_learning_rate(run: Run) -> None:
    """Refuses factors on the learning rate for an optimizer that has none, or sets it, and for a range test."""
    batching, optimizer = run.batching, run.optimizer
    factor, key, name = batching.repeat_lr_factor, batching.changes_lr, type(optimizer).__name__
    changed = [f"repeat_lr_factor={factor}"] * (factor != 1) + [key] * (key is not None)
    if not changed:
        return
    right = "give 1" if factor != 1 else "leave it unchanged"
    if optimizer.sets_lr:
        raise UserError(f"batching.{changed[0]}: {name} computes its learning rate itself; {right}")
    if not all("lr" in group for group in optimizer.param_groups):
        raise UserError(f"batching.{changed[0]}: {name} has no learning rate; {right}")
    if run.range_test and key is not None:
        raise UserError(f"batching.{key}: a range test changes the learning rate itself; leave it unchanged")
