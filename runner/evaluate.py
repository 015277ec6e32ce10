"""`trainopt evaluate RUN`: a run's weights on its evaluation sets."""

from pathlib import Path

from rich.table import Table

from trainopt.models import DamagedFile

from .build import build
from .display import Display
from .errors import UserError
from .evaluation import evaluate
from .folder import read_config
from .store import by_step, read


def evaluate_run(folder: Path, which: str) -> None:
    """Evaluate a checkpoint of a run and print the figures.

    Args:
        folder: the run's.
        which: `best`, `last`, or a checkpoint file.
    """
    config, _ = read_config(folder)
    path = folder / "checkpoints" / f"{which}.pt" if which in ("best", "last") else Path(which)
    if which == "last" and not path.exists():  # it was being replaced when the run was killed
        path = next((older for _, older in by_step(path.parent)), path)
    try:
        state = read(path)
    except DamagedFile as error:
        raise UserError(str(error)) from error
    run = build(config, folder, training=False)
    try:
        run.network.load_state_dict(state["model"])
        step = state["progress"]["step"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: is no checkpoint of this run") from error
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title=f"{path.name}, step {step}")
    for name in ("set", "images", "loss", "top-1 (%)", "top-5 (%)"):
        table.add_column(name, justify="left" if name == "set" else "right")
    for kind, source in run.evaluation_sets.items():
        row = evaluate(run.network, run.forward, source, run.evaluation_batch_size, run.autocast)
        if run.objective.returns_loss:
            point = f" at theta = {row['theta']}" if "theta" in row else ""
            Display().say(f"{path.name}, step {step}: value {row['loss']:.6g}{point}")
            return
        figures = (f"{row['loss']:.4f}", f"{row['top1']:.2f}", f"{row['top5']:.2f}")
        table.add_row(kind, f"{len(source):,}", *figures)
    Display().say(table)
