"""One run in its folder, from a checked configuration to a summary."""

import sys
import traceback
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from .display import Display, shown
from .errors import one_line
from .folder import DONE, fingerprint, read_json, same_run

if TYPE_CHECKING:  # torch is imported when a run begins
    from .build import Run
    from .record import Record

FAILED = 1  # exit code


def start(
    config: DictConfig, choices: dict[str, Any], folder: Path, command: list[str], debug: bool = False
) -> int:
    """Begin a run in a folder, continue the one that is there, or show its result; return the exit code.

    Raises:
        UserError: the folder holds another run, or a piece cannot be built; nothing was written then.
    """
    display = Display(config.duration)
    if (folder / "run.yaml").exists():
        same_run(folder, config)
        summary = read_json(folder / "summary.json")
        if summary.get("status") in DONE:
            display.say(f"this run is already {summary['status']}:")
            tell_end(display, summary, folder)
            return 0
    return carry_out(config, choices, folder, command, display, debug)


def carry_out(
    config: DictConfig, choices: dict[str, Any], folder: Path, command: list[str], display: Display, debug: bool
) -> int:
    """Build, train and sum up, from the folder's last checkpoint where there is one; return the exit code."""
    from . import checkpoint
    from .build import build
    from .construct import construct
    from .environment import environment
    from .record import Record, write_json, write_text

    run = build(config)
    last = folder / "checkpoints" / "last.pt"
    state = checkpoint.load(last) if last.exists() else None
    resumed_at = state["progress"]["step"] if state else None
    logger = None
    if config.logger.get("_target_"):
        logger = construct(config.logger, "logger", folder=folder, resumed_at=resumed_at)

    folder.mkdir(parents=True, exist_ok=True)
    constants = {"fingerprint": fingerprint(config), "seed": config.seed}
    header = {"choices": choices, "fingerprint": constants["fingerprint"]}
    write_text(folder / "run.yaml", OmegaConf.to_yaml(config, resolve=True) + OmegaConf.to_yaml(header))
    here = environment(run.device, command)
    before = read_json(folder / "environment.json") if state is not None else {}
    if before:  # a run that goes on elsewhere keeps where it was
        here["earlier"] = [*before.pop("earlier", []), before]
    write_json(folder / "environment.json", here)
    if state is None:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    selection = next(iter(run.evaluation_sets))  # validation, where there is one
    record = Record(folder, constants, selection, logger)
    display.log_to(folder / "log.txt")
    try:
        if state is not None:
            record.resume(state)
            checkpoint.restore(run, state)
            display.say(f"continuing from step {resumed_at}")
        display.start(facts(config, choices, run, folder), run.notes)
        code, outcome = attempt(run, record, display, folder, debug)
        summary = record.summarise(run, **outcome)
        tell_end(display, summary, folder)
        return code
    finally:
        record.close()
        display.close()


def attempt(
    run: "Run", record: "Record", display: Display, folder: Path, debug: bool
) -> tuple[int, dict[str, Any]]:
    """Train; return the exit code and what the summary says of how it ended."""
    from .finite import Diverged
    from .interrupt import Interrupt
    from .loop import train

    with Interrupt() as interrupt:
        try:
            with display.live():
                train(run, record, display, interrupt)
        except Diverged as outcome:
            record.checkpoint(run)
            where = {"step": run.progress.step, "epoch": run.progress.epochs, "loss": str(outcome.loss)}
            return 0, {"status": "diverged", "diverged_at": where}
        except KeyboardInterrupt:
            return 128 + SIGINT, {"status": "interrupted"}
        except Exception as error:  # noqa: BLE001 - whatever ends a run is recorded
            with open(folder / "log.txt", "a") as log:
                log.write(traceback.format_exc())
            if debug:
                traceback.print_exc()
            return FAILED, {"status": "failed", "error": f"{type(error).__name__}: {one_line(error)}"}
    if interrupt.signal:
        return 128 + interrupt.signal, {"status": "interrupted"}
    return 0, {"status": "finished"}


def tell_end(display: Display, summary: dict[str, Any], folder: Path) -> None:
    """Say how a run ended, with its curves and figures."""
    from .curves import draw_curves

    if summary["status"] == "failed":
        print(f"trainopt: the run failed: {summary['error']}", file=sys.stderr)
        print(f"trainopt: the traceback is in {shown(folder / 'log.txt')}", file=sys.stderr)
    elif summary["status"] == "interrupted":
        display.say(f"interrupted; go on from the last checkpoint with: trainopt resume {shown(folder)}")
    else:
        if not (folder / "curves.png").exists():
            draw_curves(folder, folder.name)
        display.result(summary, folder)
    if summary["status"] == "diverged":
        where = summary["diverged_at"]
        at = f"step {where['step']} (epoch {where['epoch']:.2f})"
        display.say(f"diverged: the loss became {where['loss']} after {at}")


def facts(config: DictConfig, choices: dict[str, Any], run: Any, folder: Path) -> list[tuple[str, str]]:
    """Return what the start says of a run, as (name, value)."""
    from .device import describe

    images = ", ".join(f"{len(s):,} {kind}" for kind, s in run.evaluation_sets.items())
    shape = "x".join(map(str, run.image_shape))
    trainable = "" if run.parameters == run.trainable_parameters else f", {run.trainable_parameters:,} trained"
    optimizer = config.optimizer.get("_target_", "").rpartition(".")[2]
    lr = run.optimizer.param_groups[0].get("lr")
    rate = "" if lr is None else f", lr {float(lr):g}"
    spans = sum(1 for _ in run.batching.spans(len(run.training_set), 0))
    return [
        ("model", f"{choices.get('model')} ({run.parameters:,} parameters{trainable})"),
        ("data", f"{choices.get('data')} ({len(run.training_set):,} training, {images} images; {shape})"),
        ("optimizer", f"{optimizer}{rate}, schedule {choices.get('schedule')}"),
        ("length", f"{config.duration}, {spans} {'batch' if spans == 1 else 'batches'} an epoch"),
        ("device", f"{describe(run.device)}, {config.precision}"),
        ("folder", shown(folder)),
    ]
