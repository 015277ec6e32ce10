"""One run in its folder, from a checked configuration to a summary."""

import sys
import traceback
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .display import Display, shown
from .errors import one_line
from .folder import DONE, fingerprint, plain, read_summary, same_run

FAILED = 1  # exit code


def start(config: DictConfig, choices: dict[str, Any], folder: Path, command: list[str], debug: bool = False) -> int:
    """Begin a run in a folder, continue the one that is there, or show its result; return the exit code.

    Raises:
        UserError: the folder holds another run, or a piece cannot be built; nothing was written then.
    """
    display = Display(config.duration)
    if (folder / "run.yaml").exists():
        same_run(folder, config)
        summary = read_summary(folder)
        if summary.get("status") in DONE:
            display.say(f"this run is already {summary['status']}:")
            tell_end(display, summary, folder)
            return 0
    return carry_out(config, choices, folder, command, display, debug)


def carry_out(
    config: DictConfig, choices: dict[str, Any], folder: Path, command: list[str], display: Display, debug: bool
) -> int:
    """Build, train and sum up, from the folder's last checkpoint where there is one."""
    from . import checkpoint
    from .build import build
    from .construct import construct
    from .environment import environment
    from .finite import Diverged
    from .interrupt import Interrupt
    from .loop import train
    from .record import Record, write_json, write_text

    run = build(config)
    last = folder / "checkpoints" / "last.pt"
    state = checkpoint.load(last) if last.exists() else None
    resumed_at = state["progress"]["step"] if state else None
    logger = None
    if config.logger.get("_target_"):
        logger = construct(config.logger, "logger", folder=folder, resumed_at=resumed_at)

    mark = fingerprint(config)
    folder.mkdir(parents=True, exist_ok=True)
    content = {**plain(config), "choices": choices, "fingerprint": mark}
    write_text(folder / "run.yaml", OmegaConf.to_yaml(OmegaConf.create(content)))
    write_json(folder / "environment.json", environment(run.device, command))
    if state is None:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    selection = next(iter(run.evaluation_sets))  # validation, where there is one
    record = Record(folder, {"fingerprint": mark, "seed": config.seed}, selection, logger)
    display.log_to(folder / "log.txt")
    try:
        if state is not None:
            record.resume(state)
            checkpoint.restore(run, state)
            display.say(f"continuing from step {resumed_at}")
        display.start(facts(config, choices, run, folder), run.notes)
        with Interrupt() as interrupt:
            try:
                with display.live():
                    train(run, record, display, interrupt)
            except Diverged as outcome:
                record.checkpoint(run)
                where = {"step": run.progress.step, "epoch": run.progress.epochs, "loss": str(outcome.loss)}
                summary = record.summarise(run, "diverged", diverged_at=where)
                draw(folder, display)
                tell_end(display, summary, folder)
                return 0
            except KeyboardInterrupt:
                record.summarise(run, "interrupted")
                display.say("stopped at once; the last checkpoint stands")
                return 130
            except Exception as error:
                record.summarise(run, "failed", error=f"{type(error).__name__}: {one_line(error)}")
                (folder / "log.txt").open("a").write(traceback.format_exc())
                if debug:
                    raise
                print(f"trainopt: the run failed: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
                print(f"trainopt: the traceback is in {shown(folder / 'log.txt')}", file=sys.stderr)
                return FAILED
            if interrupt.signal:
                record.summarise(run, "interrupted")
                display.say(f"interrupted at step {run.progress.step}; go on with: trainopt resume {shown(folder)}")
                return 128 + interrupt.signal
        summary = record.summarise(run, "finished")
        draw(folder, display)
        tell_end(display, summary, folder)
        return 0
    finally:
        record.close()
        display.close()


def draw(folder: Path, display: Display) -> None:
    """Draw the curves; a picture that cannot be drawn is said and no reason to fail."""
    from .curves import draw_curves

    try:
        draw_curves(folder, folder.name)
    except (OSError, ValueError, KeyError) as error:
        display.say(f"note: curves.png could not be drawn ({one_line(error)})")


def tell_end(display: Display, summary: dict[str, Any], folder: Path) -> None:
    """Print the result of a run that ended."""
    display.result(summary, folder)
    if summary["status"] == "diverged":
        where = summary["diverged_at"]
        display.say(
            f"diverged: the loss became {where['loss']} after step {where['step']} (epoch {where['epoch']:.2f})"
        )


def facts(config: DictConfig, choices: dict[str, Any], run: Any, folder: Path) -> list[tuple[str, str]]:
    """Return what the start says of a run, as (name, value)."""
    from .device import describe

    images = ", ".join(f"{len(s):,} {kind}" for kind, s in run.evaluation_sets.items())
    shape = "x".join(map(str, run.image_shape))
    trainable = "" if run.parameters == run.trainable_parameters else f", {run.trainable_parameters:,} trained"
    optimizer = config.optimizer.get("_target_", "").rpartition(".")[2]
    lr = run.optimizer.param_groups[0].get("lr")
    spans = sum(1 for _ in run.batching.spans(len(run.training_set), 0))
    return [
        ("model", f"{choices.get('model')} ({run.parameters:,} parameters{trainable})"),
        ("data", f"{choices.get('data')} ({len(run.training_set):,} training, {images} images; {shape})"),
        ("optimizer", f"{optimizer}, lr {lr:g}, schedule {choices.get('schedule')}"),
        ("length", f"{config.duration}, {spans} {'batch' if spans == 1 else 'batches'} an epoch"),
        ("device", f"{describe(run.device)}, {config.precision}"),
        ("folder", shown(folder)),
    ]
