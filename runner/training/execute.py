"""One run in its folder, from a checked configuration to a summary."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ..records.run_folder import DONE, fingerprint, log_traceback, record_failure, summary_if_done
from ..system.display import Display
from ..system.errors import FAILED, UserError, cannot_write, one_line, reason
from ..system.files import read_json, shown, write_json, write_text
from ..system.interrupt import Interrupt
from ..system.lock import RunLock

if TYPE_CHECKING:  # torch is imported when a run begins
    from ..records.checkpoint_files import ResumePoint
    from ..state.recorder import Recorder
    from ..state.run import Run


def start(
    config: DictConfig,
    choices: dict[str, Any],
    folder: Path,
    command: list[str],
    debug: bool = False,
    display: Display | None = None,
) -> int:
    """Begins a run in a folder, continue the one that is there, or show its result; returns the exit code.

    Raises:
        UserError: the folder holds another run, is written by another process, or cannot be written; or a piece
            cannot be built; nothing was written then.
    """
    display = display or Display()
    if told_if_done(config, folder, display):
        return 0
    with Interrupt() as interrupt:
        try:
            with ExitStack() as held:
                with writing(folder):
                    held.enter_context(RunLock(folder))
                if told_if_done(config, folder, display):  # by a process that held the lock a moment ago
                    return 0
                return carry_out(config, choices, folder, command, display, interrupt, debug)
        except KeyboardInterrupt:
            return interrupt.code
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - of a piece that was built; what happens later is in `attempt`
            record_failure(folder, error)
            if debug:
                traceback.print_exc()
            tell_failure(reason(error), folder)
            return FAILED


def told_if_done(config: DictConfig, folder: Path, display: Display) -> bool:
    """Shows the result of the run in a folder if it has one; UserError if the folder holds another run."""
    summary = summary_if_done(folder, config)
    if summary is None:
        return False
    display.say(f"this run is already {summary['status']}:")
    tell_end(display, summary, folder)
    return True


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an error of writing the files that a run begins with into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(cannot_write(error, folder)) from error


def carry_out(
    config: DictConfig,
    choices: dict[str, Any],
    folder: Path,
    command: list[str],
    display: Display,
    interrupt: Interrupt,
    debug: bool,
) -> int:
    """Builds, train and sum up, from the folder's newest checkpoint where there is one; returns the exit code."""
    from ..records.checkpoint_files import find_resume_point
    from .build import build

    run = build(config, folder)
    metrics = folder / "metrics.jsonl"
    found = find_resume_point(folder / "checkpoints", metrics.stat().st_size if metrics.exists() else 0)
    with ExitStack() as opened:
        with writing(folder):
            write_header(config, choices, folder, command, run, resumed=found.state is not None)
            display.log_to(folder / "log.txt")
            opened.callback(display.close)
            record = open_record(config, folder, run, found)
            opened.callback(record.close)
        for problem in found.problems:
            display.say(f"note: {problem}")
        if found.state is not None:
            restore(run, record, found.state, folder / "checkpoints" / found.name)
            display.say(f"continuing from step {run.progress.step} ({found.name})")
        display.show_start(facts(config, choices, run, folder), run.notes)
        code, outcome = attempt(run, record, display, folder, interrupt, debug)
        try:
            if run.range_test and outcome["status"] in DONE:
                from ..reporting.range_test import summarise_range_test

                record.flush()
                outcome["range_test"] = summarise_range_test(folder)
            summary = record.summarise(**outcome)
        except OSError as error:
            print(f"trainopt: the summary cannot be written: {reason(error)}", file=sys.stderr)
            return FAILED
        tell_end(display, summary, folder)
        if outcome["status"] == "failed" and record.store.last_step is not None:
            print(f"trainopt: the same command goes on from step {record.store.last_step}", file=sys.stderr)
        return code


def write_header(
    config: DictConfig, choices: dict[str, Any], folder: Path, command: list[str], run: "Run", resumed: bool
) -> None:
    """Writes what says which run this is, and where it runs."""
    from ..system.environment import environment

    header = {"choices": choices, "fingerprint": fingerprint(config)}
    write_text(folder / "run.yaml", OmegaConf.to_yaml(config, resolve=True) + OmegaConf.to_yaml(header))
    here = environment(run.device, command)
    if run.features is not None:
        here["features"] = run.features
    before = read_json(folder / "environment.json") if resumed else {}
    if before:  # a run that goes on elsewhere keeps where it was
        here["earlier"] = [*before.pop("earlier", []), before]
    write_json(folder / "environment.json", here)


def open_record(config: DictConfig, folder: Path, run: "Run", found: "ResumePoint") -> "Recorder":
    """Opens the files that grow with the run; of one that begins anew, what an earlier attempt left is removed."""
    from ..config.contracts import complete
    from ..config.instantiate import construct
    from ..records.checkpoint_files import CheckpointStore
    from ..records.logger import Logger
    from ..state.recorder import Recorder

    resumed_at = found.state["progress"]["step"] if found.state else None
    if resumed_at is None:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    logger = None
    if config.logger.get("_target_"):
        plugin = construct(config.logger, "logger", folder=folder, resumed_at=resumed_at)
        logger = complete(plugin, Logger, "logger")
    keep = config.keep_checkpoints
    return Recorder(
        run,
        folder,
        fingerprint(config),
        store=CheckpointStore(folder / "checkpoints", keep.last, found.last_step),
        keep_every=keep.every,
        at_restarts=keep.at_restarts,
        logger=logger,
    )


def restore(run: "Run", record: "Recorder", state: dict[str, Any], path: Path) -> None:
    """Sets a run and its record to the state in a checkpoint; UserError if it is that of something else."""
    from ..state.checkpoint import load_run_state

    try:
        load_run_state(run, state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{shown(path)}: does not fit this run ({one_line(error)[:160]})") from error
    record.resume(state)


def attempt(
    run: "Run", record: "Recorder", display: Display, folder: Path, interrupt: Interrupt, debug: bool
) -> tuple[int, dict[str, Any]]:
    """Trains; returns the exit code and what the summary says of how it ended."""
    from .divergence import Diverged
    from .loop import train

    try:
        interrupt.patient = True
        with display.live(run.duration):
            train(run, record, display, interrupt)
    except Diverged as outcome:
        record.checkpoint()
        where = {"step": run.progress.step, "epoch": run.progress.epochs, "loss": str(outcome.loss)}
        return 0, {"status": "diverged", "diverged_at": where}
    except KeyboardInterrupt:
        return interrupt.code, {"status": "interrupted"}
    except Exception as error:  # noqa: BLE001 - whatever ends a run is recorded
        with suppress(OSError):
            log_traceback(folder, error)
        if debug:
            traceback.print_exc()
        with suppress(Exception):  # what waits may be what failed
            record.flush()
        return FAILED, {"status": "failed", "error": reason(error)}
    finally:
        interrupt.patient = False
    if interrupt.signal:
        return interrupt.code, {"status": "interrupted"}
    why = None if run.is_over else run.early_stopping.reason
    because = {} if why is None else {"stopped_because": why}
    return 0, {"status": "finished", "stopped_early": why is not None, **because}


def tell_failure(error: str, folder: Path) -> None:
    """Says what ended a run."""
    print(f"trainopt: the run failed: {error}", file=sys.stderr)
    print(f"trainopt: the traceback is in {shown(folder / 'log.txt')}", file=sys.stderr)


def tell_end(display: Display, summary: dict[str, Any], folder: Path) -> None:
    """Says how a run ended, with its curves and figures."""
    from ..reporting.curves import draw_learning_curves
    from ..reporting.fisher_curves import draw_fisher_curves
    from ..reporting.loss_terms import draw_loss_terms
    from ..reporting.range_test import draw_range_test, report_bounds
    from ..reporting.trajectory import draw_trajectory

    range_test = summary.get("range_test")
    if summary["status"] == "failed":
        tell_failure(summary["error"], folder)
    elif summary["status"] == "interrupted":
        display.say(f"interrupted; go on from the last checkpoint with: trainopt resume {shown(folder)}")
    else:
        if not (folder / "curves.png").exists():
            with suppress(OSError):  # a folder that can only be read shows its figures all the same
                draw_learning_curves(folder, folder.name)
                draw_loss_terms(folder, folder.name)
                draw_fisher_curves(folder, folder.name)
                draw_trajectory(folder)
                if range_test:
                    draw_range_test(folder, range_test)
        display.show_summary(summary, folder)
    if summary["status"] == "diverged":
        where = summary["diverged_at"]
        at = f"step {where['step']} (epoch {where['epoch']:.2f})"
        display.say(f"diverged: the loss became {where['loss']} after {at}")
    if summary.get("stopped_early"):
        display.say(f"stopped early: {summary['steps']} steps; {summary['stopped_because']}")
    for line in report_bounds(range_test) if range_test else ():
        display.say(line)


def facts(config: DictConfig, choices: dict[str, Any], run: Any, folder: Path) -> list[tuple[str, str]]:
    """Returns what the start says of a run, as (name, value)."""
    from trainopt.data import Position

    from ..system.device import describe_device

    images = ", ".join(f"{len(s):,} {kind}" for kind, s in run.evaluation_sets.items())
    shape = "x".join(map(str, run.image_shape))
    precision, data = config.precision, f" ({len(run.training_set):,} training, {images} images; {shape})"
    if run.objective.returns_loss:
        precision, data = str(next(run.network.parameters()).dtype).removeprefix("torch."), ""
    trainable = "" if run.parameters == run.trainable_parameters else f", {run.trainable_parameters:,} trained"
    optimizer = config.optimizer.get("_target_", "").rpartition(".")[2]
    lr = run.optimizer.param_groups[0].get("lr")
    at_first = "" if lr == config.optimizer.get("lr", lr) else " at first"
    rate = "" if lr is None else f", lr {float(lr):g}{at_first}"
    warmup = "" if config.schedule.warmup is None else f", warm-up over {config.schedule.warmup}"
    spans = sum(1 for _ in run.batching.spans_from(Position(), len(run.training_set)))
    changes = run.batching.describe()
    sizes = [("batches", changes)] if changes else []
    an_epoch = f"{spans} {'batch' if spans == 1 else 'batches'} an epoch{' at first' if sizes else ''}"
    features = [] if run.features is None else [("features", run.features)]
    return [
        ("model", f"{choices.get('model')} ({run.parameters:,} parameters{trainable})"),
        ("data", f"{choices.get('data')}{data}"),
        *features,
        ("optimizer", f"{optimizer}{rate}, schedule {choices.get('schedule')}{warmup}"),
        ("length", f"{config.duration}, {an_epoch}"),
        *sizes,
        ("device", f"{describe_device(run.device)}, {precision}"),
        ("folder", shown(folder)),
    ]
