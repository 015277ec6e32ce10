"""What `trainopt landscape` prints: the checkpoints, the barriers between them, and what these mean."""

from typing import Any

from ..system.display import Display, plain_table
from .landscape import NO_BARRIER
from .landscape_figures import LETTERS

DEFINITION = (
    "barrier: the largest height of a loss or an error, on the way between two checkpoints, above the straight line"
    " between its values at the two (Entezari et al. 2022);"
    f" less than {NO_BARRIER:g} points of test error count as none (Frankle et al. 2020)"
)
BATCH_NORM = {
    "recompute": "; statistics of batch norm between checkpoints: recomputed from these training images",
    "interpolate": "; statistics of batch norm between checkpoints: interpolated",
    None: "",  # the network has none
}


def show_landscape(result: dict[str, Any], display: Display) -> None:
    """Prints the checkpoints, the barriers between them, and what these mean."""
    ends: dict[int, dict[str, float]] = {}
    for line in result["lines"]:
        at = {point["t"]: point for point in line["points"]}
        ends |= {line["from"]: at[0.0], line["to"]: at[1.0]}
    table = plain_table("", "", "train loss", "test loss", "train error (%)", "test error (%)", left=2)
    for k, checkpoint in enumerate(result["checkpoints"]):
        table.add_row(LETTERS[k], f"{checkpoint['name']}, step {checkpoint['step']}", *loss_and_error_cells(ends[k]))
    for line in result["lines"]:
        heights = {key: barrier["height"] for key, barrier in line["barriers"].items()}
        table.add_row("", f"barrier {line_name(line)}", *loss_and_error_cells(heights))
    display.say(table)
    for line in result["lines"]:
        display.say(conclusion(line))
    display.say(DEFINITION)
    images = f"{result['images']['train']:,} training images and {result['images']['test']:,} test images"
    display.say(f"on {images}{BATCH_NORM[result['batch_norm']]}")


def loss_and_error_cells(values: dict[str, float]) -> list[str]:
    """Returns train and test loss, then train and test error, as text."""
    losses = [f"{values[key]:.4f}" for key in ("train_loss", "test_loss")]
    return losses + [f"{values[key]:.2f}" for key in ("train_error", "test_error")]


def line_name(line: dict[str, Any]) -> str:
    """Returns a line as the letters of its ends."""
    return f"{LETTERS[line['from']]}–{LETTERS[line['to']]}"


def conclusion(line: dict[str, Any]) -> str:
    """Returns a sentence on whether there is a barrier between two checkpoints."""
    loss, error = line["barriers"]["test_loss"], line["barriers"]["test_error"]
    percent = f"{100 * line['relative_distance']:.3g} % of the length of {LETTERS[line['from']]}"
    distance = f"distance {line['distance']:.4g}, {percent}"
    if line["one_basin"]:
        rise = f"{error['height']:.2f} points in the test error, {loss['height']:.4f} in the test loss"
        return f"{line_name(line)}: no barrier lies between them: they lie in one basin ({rise}; {distance})"
    return (
        f"{line_name(line)}: a barrier of {error['height']:.2f} points of test error lies between them, at t ="
        f" {error['t']:.2f}, and of {loss['height']:.4f} in the test loss, at t = {loss['t']:.2f} ({distance})"
    )
