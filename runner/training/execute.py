"""One run in its folder, from a checked configuration to a summary."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ..distributed.launch import joined_ranks
from ..distributed.ranks import Ranks, kind_of
from ..records.changes import Change, update_plan
from ..records.metrics import METRICS_FILE, void_record
from ..records.run_folder import (
    CONFIG,
    DONE,
    ENVIRONMENT,
    LOG,
    SUMMARY,
    check_same_run,
    failure,
    fingerprint,
    log_traceback,
    missing_code_explained,
    read_former_environment,
    read_history,
    read_summary,
    record_failure,
    summary_if_done,
)
from ..reporting.run_end import report_end, report_failure, report_interrupt
from ..system.display import Display
from ..system.environment import launched_rank, launched_size
from ..system.errors import FAILED, USER_ERROR, UserError, interrupted_code, one_line, reason, refuse_unwritable
from ..system.files import shown, write_json, write_text
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
    change: Change | None = None,
    pause_after: int | None = None,
) -> int:
    """Begins a run in a folder, continues the one that is there, or shows its result; returns the exit code.

    Args:
        config: checked.
        choices: the chosen options, by group.
        folder: the run's.
        command: the command line, for environment.json.
        debug: whether tracebacks are printed.
        display: where to print; None: the screen.
        change: what becomes another in the run of the folder; None: nothing.
        pause_after: as of `Run`.

    Raises:
        UserError: the folder holds another run, is written by another process, or cannot be written; or a component
            cannot be built, or the change would be one of the run's past; nothing was written then.
    """
    display = display or Display(quiet=launched_rank() > 0)
    is_alone = launched_size() == 1
    if is_alone and change is None and show_if_done(config, folder, display):
        return 0
    try:
        with Interrupt() as interrupt, joined_ranks(config.device) as ranks, ExitStack() as stack:

            def begin() -> bool:
                """Takes the folder, unless the run in it is done."""
                if not is_alone and change is None and show_if_done(config, folder, display):
                    return True
                with refuse_unwritable(folder):
                    stack.enter_context(RunLock(folder))
                if change is not None:
                    check_same_run(folder, change.former)
                    return False
                return show_if_done(config, folder, display)  # by a process that held the lock a moment ago

            if ranks.lead(begin):
                return 0
            return execute(config, choices, folder, command, display, interrupt, debug, change, pause_after, ranks)
    except KeyboardInterrupt as stop:
        report_interrupt(display, folder)
        return interrupted_code(stop)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - of a component that was built; later ones are in `run_training`
        if change is None and launched_rank() == 0:
            record_failure(folder, error)
        if debug:
            traceback.print_exc()
        report_failure(reason(error), folder)
        return FAILED


def show_if_done(config: DictConfig, folder: Path, display: Display) -> bool:
    """Shows the result of the run in a folder if it has one; UserError if the folder holds another run."""
    summary = summary_if_done(folder, config)
    if summary is None:
        return False
    display.say(f"this run is already {summary['status']}:")
    report_end(display, summary, folder)
    return True


def execute(
    config: DictConfig,
    choices: dict[str, Any],
    folder: Path,
    command: list[str],
    display: Display,
    interrupt: Interrupt,
    debug: bool,
    change: Change | None,
    pause_after: int | None,
    ranks: Ranks,
) -> int:
    """Builds a run, trains it from the newest checkpoint if any, and writes the summary; returns the exit code."""
    from ..data_sets.checksum import check_same_data
    from .build import build
    from .compatibility import check_change
    from .describe import count_batches, describe_run
    from .divergence import waiting_notes
    from .schedule import warmup_notes, zero_lr_notes

    with missing_code_explained(folder):
        run = build(config, folder, ranks=ranks)
    run.pause_after = pause_after
    resume_point, history, former = ranks.lead(lambda: read_past(folder))
    if resume_point.state:
        place = config.data.get("path") or f"data={choices['data']} in {config.data.root}"
        sizes = (resume_point.state["progress"]["epoch_size"], run.progress.epoch_size)
        ranks.each(lambda: check_same_data(place, former.get("data_checksum"), run.data_checksum, sizes))
    ranks_before = former.get("ranks", 1) if resume_point.state else ranks.size
    if ranks_before != ranks.size:
        run.notes.append(
            f"the run had {ranks_before} ranks before, and has {ranks.size} from here on: the same samples in the same"
            " order, and sums over them in another"
        )
    if change is not None and resume_point.state:
        state = resume_point.state
        ranks.lead(lambda: check_change(change, run, state, folder))
        run.notes.append(change.describe(resume_point.state["progress"]["step"]))
        history.append({"step": resume_point.state["progress"]["step"], "before": change.before})
    with ExitStack() as stack:

        def write_first() -> None:
            with refuse_unwritable(folder):
                if change is not None:
                    reopen(folder, change)
                resumed_at = resume_point.state["progress"]["step"] if resume_point.state else None
                write_header(config, choices, folder, command, run, history, resumed_at)
                display.log_to(folder / LOG)

        stack.callback(display.close)
        ranks.lead(write_first)
        with refuse_unwritable(folder):
            recorder = open_recorder(config, folder, run, resume_point, display)
            stack.callback(recorder.close)
        resume(run, recorder, folder, resume_point, display, history)
        run.notes += warmup_notes(config.schedule.warmup, run.duration, count_batches(run))
        run.notes += zero_lr_notes(run.schedule, run.progress, run.duration)
        run.notes += waiting_notes(run)
        display.show_start(describe_run(config, choices, run, folder), run.notes)
        with of_all_ranks(run, interrupt) as shared_interrupt:
            code, outcome = run_training(run, recorder, display, folder, shared_interrupt, debug)
        return finish(run, recorder, display, folder, interrupt, code, outcome)


def read_past(folder: Path) -> tuple["ResumePoint", list[dict[str, Any]], dict[str, Any]]:
    """Returns the state that the run of a folder goes on from, what was changed in it, and its environment.json."""
    from ..records.checkpoint_files import find_resume_point

    metrics = folder / METRICS_FILE
    point = find_resume_point(folder / "checkpoints", metrics.stat().st_size if metrics.exists() else 0)
    history = read_history(folder) if point.state else []
    return point, history, read_former_environment(folder)


def reopen(folder: Path, change: Change) -> None:
    """Lets the run of a folder count as interrupted, and the sweep that it is a job of know what it becomes.

    That comes before its configuration changes: should this process die meanwhile, the same command is tried again.
    """
    summary = read_summary(folder)
    if summary:
        write_json(folder / SUMMARY, {**summary, "status": "interrupted"})
    (folder / "curves.png").unlink(missing_ok=True)  # all figures are drawn anew
    update_plan(folder, change)


def write_header(
    config: DictConfig,
    choices: dict[str, Any],
    folder: Path,
    command: list[str],
    run: "Run",
    history: list[dict[str, Any]],
    resumed_at: int | None,
) -> None:
    """Writes which run this is (run.yaml), and what it runs on and with (environment.json).

    Where a run goes on, from step `resumed_at`, with other code of the user's, its notes and its summary say so.
    """
    from ..config.instantiate import own_defaults
    from ..provenance.environment import environment
    from ..provenance.user_code import code_changes, differing_files, targets_of

    header = {"choices": choices, "fingerprint": fingerprint(config)} | ({"history": history} if history else {})
    write_text(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True) + OmegaConf.to_yaml(header))
    present = environment(run.device, command, targets_of(OmegaConf.to_container(config, resolve=True)))
    present["step"] = resumed_at or 0
    further = {
        "defaults": own_defaults(config, choices),
        "ranks": run.ranks.size if run.ranks.size > 1 else None,
        "features": run.features,
        "data": run.decisions,
        "data_checksum": run.data_checksum,
    }
    present |= {name: value for name, value in further.items() if value is not None}
    before = {} if resumed_at is None else read_former_environment(folder)
    if before:  # a run that goes on elsewhere keeps where it was
        present["earlier"] = [*before.pop("earlier", []), before]
        run.code_changes = code_changes([*present["earlier"], present])
        if differing_files(before.get("code", ()), present["code"]):
            files = ", ".join(run.code_changes[-1]["files"])
            run.notes.append(f"other code from step {resumed_at} on: {files} changed since the run was last started")
    write_json(folder / ENVIRONMENT, present)


def open_recorder(
    config: DictConfig, folder: Path, run: "Run", resume_point: "ResumePoint", display: Display
) -> "Recorder":
    """Opens the files that grow with the run; of one that begins anew, what an earlier attempt left is removed."""
    from ..config.contracts import complete_each
    from ..config.instantiate import construct_each
    from ..records.checkpoint_files import CheckpointStore
    from ..records.logger import Logger
    from ..state.recorder import Recorder, SilentRecorder

    keep = config.keep_checkpoints
    if not run.ranks.leads:
        return SilentRecorder(run, keep.every, keep.at_restarts)
    resumed_at = resume_point.state["progress"]["step"] if resume_point.state else None
    if resumed_at is None:
        (folder / METRICS_FILE).unlink(missing_ok=True)
    plugins = construct_each(config, "logger", folder=folder, resumed_at=resumed_at, say=display.say)
    loggers = complete_each(plugins, Logger, "logger").values()
    store = CheckpointStore(folder / "checkpoints", keep.last, resume_point.last_step)
    return Recorder(run, folder, fingerprint(config), store, keep.every, keep.at_restarts, loggers)


def resume(
    run: "Run",
    recorder: "Recorder",
    folder: Path,
    resume_point: "ResumePoint",
    display: Display,
    history: list[dict[str, Any]],
) -> None:
    """Sets a run and its recorder to the newest checkpoint, if any; UserError if it is that of something else."""
    from ..state.checkpoint import load_run_state
    from .evaluator import only_its_end_logged

    for problem in resume_point.problems:
        display.say(f"note: {problem}")
    if resume_point.state is None:
        return
    try:
        load_run_state(run, resume_point.state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        path = shown(folder / "checkpoints" / resume_point.name)
        raise UserError(f"{path}: does not fit this run ({one_line(error)[:160]})") from error
    recorder.resume(resume_point.state)
    if run.ranks.leads and history and only_its_end_logged(run, history[-1], folder):
        void_record(folder / METRICS_FILE, "train", run.progress.step)
    display.say(f"continuing from step {run.progress.step} ({resume_point.name})")


@contextmanager
def of_all_ranks(run: "Run", interrupt: Interrupt) -> Iterator[Interrupt]:
    """Lets batch norm and dropout see the whole batch while entered; yields the interrupt of all processes."""
    if run.ranks.size == 1:
        yield interrupt
        return
    from ..distributed.batch_norm import GlobalBatchNorm
    from ..distributed.dropout import has_dropout
    from ..distributed.interrupt import AgreedInterrupt

    with ExitStack() as modes:
        if run.batch_norm == "global":
            modes.enter_context(GlobalBatchNorm(run.ranks))
        if has_dropout(run.network):
            modes.enter_context(run.shard.dropout)  # type: ignore[attr-defined]
        yield AgreedInterrupt(interrupt, run.ranks)


def run_training(
    run: "Run", recorder: "Recorder", display: Display, folder: Path, interrupt: Interrupt, debug: bool
) -> tuple[int, dict[str, Any]]:
    """Trains a run; returns the exit code, and how it ended, for the summary. The interrupt stays patient."""
    from trainopt.data import DataError

    from .divergence import Diverged, are_finite
    from .loop import train

    try:
        interrupt.patient = True
        with display.live(run.duration):
            train(run, recorder, display, interrupt)
    except FloatingPointError as error:  # Diverged is one; an optimizer raises another, instead of an update
        if are_finite(run.network.parameters()):
            try:
                recorder.checkpoint()
            except OSError as full:  # as on a full disk: the run has diverged all the same
                display.say(f"note: the last checkpoint cannot be written: {reason(full)}")
        values = error.values if isinstance(error, Diverged) else {"gradient_norm": "nan"}
        end = {"step": run.progress.step, "epoch": run.progress.epochs, **values}
        return 0, {"status": "diverged", "diverged_at": end}
    except KeyboardInterrupt:
        return interrupt.code, {"status": "interrupted"}
    except (DataError, UserError) as error:  # a line that says all
        run.ranks.fail(error)
        with suppress(Exception):  # writing the rows that wait may be what failed
            recorder.flush()
        return USER_ERROR, failure(str(error), kind_of(error))
    except Exception as raised:  # noqa: BLE001 - whatever ends a run is recorded
        cause = run.ranks.cause(raised)
        run.ranks.fail(cause)
        if run.ranks.leads:
            with suppress(OSError):
                log_traceback(folder, cause)
        if interrupt.signal:  # it reached the processes that read the data as well, and the run misses them
            return interrupt.code, {"status": "interrupted"}
        if debug:
            traceback.print_exc()
        with suppress(Exception):  # writing the rows that wait may be what failed
            recorder.flush()
        return FAILED, failure(reason(cause), kind_of(cause))
    if interrupt.signal:
        return interrupt.code, {"status": "interrupted"}
    if run.is_paused and not (run.is_over or run.early_stopping.ends):
        return 0, {"status": "paused"}
    early = None if run.is_over else run.early_stopping.reason
    outcome: dict[str, Any] = {"status": "finished", "stopped_early": early is not None}
    return 0, outcome if early is None else {**outcome, "stopped_because": early}


def finish(
    run: "Run",
    recorder: "Recorder",
    display: Display,
    folder: Path,
    interrupt: Interrupt,
    code: int,
    outcome: dict[str, Any],
) -> int:
    """Writes the summary of a run and reports its end; returns the exit code.

    Raises:
        KeyboardInterrupt: a signal came after the training; the summary is written.
        UserError: data that cannot be read ended it.
    """
    if not run.ranks.leads:
        return code
    try:
        if run.range_test and outcome["status"] in DONE:
            from ..reporting.range_test import summarise_range_test

            recorder.flush()
            outcome["range_test"] = summarise_range_test(folder)
        summary = recorder.summarise(**outcome)
    except OSError as error:
        print(f"trainopt: the summary cannot be written: {reason(error)}", file=sys.stderr)
        return FAILED
    finally:
        interrupt.patient = False
    if interrupt.signal and code < 128:
        raise KeyboardInterrupt(interrupt.signal)
    last_step = recorder.store.last_step
    if code == USER_ERROR:
        after = "" if last_step is None else f"; once this is mended, the same command goes on from step {last_step}"
        raise UserError(f"{outcome['error']}{after}")
    report_end(display, summary, folder)
    if outcome["status"] == "failed" and last_step is not None:
        print(f"trainopt: once the cause is removed, the same command goes on from step {last_step}", file=sys.stderr)
    return code
