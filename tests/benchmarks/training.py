"""Runs that a benchmark trains again and again from the same weights."""

import copy
import io
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_module
from rich.console import Console

from pairs import seconds
from trainopt.optimizers import Optimizer
from trainopt.runner.config.contracts import complete
from trainopt.runner.config.run_names import register_resolvers
from trainopt.runner.records.checkpoint_files import CheckpointStore
from trainopt.runner.records.tensorboard import TensorBoard
from trainopt.runner.state.recorder import Recorder
from trainopt.runner.state.run import Run
from trainopt.runner.system.display import Display
from trainopt.runner.system.interrupt import Interrupt
from trainopt.runner.training.build import build
from trainopt.runner.training.loop import train


def built(*overrides: str) -> Run:
    """Returns a run that evaluates before its first and after its last step only."""
    register_resolvers()
    with initialize_config_module("trainopt.conf", version_base="1.3"):
        return build(compose("config", [*overrides, "evaluate_every=1000epochs", "checkpoint_every=1000epochs"]))


def trained(run: Run, start: dict, lr: float = 0.1) -> tuple[Run, float]:
    """Trains with our loop, records and TensorBoard events from a state; returns the run at its end, and seconds."""
    run = copy.copy(run)
    run.network.load_state_dict(start)
    optimizer = torch.optim.SGD(run.network.parameters(), lr=lr, momentum=0.9)
    run.optimizer = complete(optimizer, Optimizer, "optimizer")
    run.progress = type(run.progress)(run.progress.epoch_size)
    run.clocks = type(run.clocks)(run.device)
    display = Display(Console(file=io.StringIO()))
    with tempfile.TemporaryDirectory() as folder:
        store, logger = CheckpointStore(Path(folder)), TensorBoard(Path(folder))
        recorder = Recorder(run, Path(folder), "", store, loggers=[logger])
        elapsed = seconds(lambda: train(run, recorder, display, Interrupt()))
        recorder.close()
    return run, elapsed
