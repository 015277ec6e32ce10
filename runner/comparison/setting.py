"""What a result is a result of: network, data, duration and seeds, and whether the runs had converged."""

import re

from ..reporting.method_styles import part_label
from ..system.files import plural
from .differences import configs_as_text
from .methods import Comparison

SAMPLES = {"training_images": "training samples", "test_images": "test samples"}  # of summaries


def setting_text(comparison: Comparison) -> str:
    """Returns what all runs have in common, in a sentence: network, data, duration, and seeds of a method."""
    text = configs_as_text(comparison.runs.configs)
    summaries = comparison.runs.summaries

    def common(key: str) -> str:
        return str(text[key].iloc[0]) if key in text and text[key].nunique() == 1 else ""

    model, data = (part_label(group, common(f"choices.{group}")) for group in ("model", "data"))
    trained = " on ".join(filter(None, [common("choices.model") and model, common("choices.data") and data]))
    parts = [trained] if trained else []
    for key, name in SAMPLES.items():
        counts = summaries[key].dropna().unique() if key in summaries else []
        parts += [f"{int(counts[0]):,} {name}"] if len(counts) == 1 and counts[0] else []
    steps = summaries["steps"].dropna().unique() if "steps" in summaries else []
    length = f" ({int(steps[0]):,} steps)" if len(steps) == 1 and not common("duration").endswith("steps") else ""
    duration = re.sub(r"(?<=\d)(?=[a-z]+$)", " ", common("duration"))
    parts += [f"{duration}{length}"] if duration else []
    counts = sorted({len(method.runs) for method in comparison.methods})
    number = plural(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    parts.append(f"{number} of each method")
    return f"{', '.join(parts)}."


def horizon_text(comparison: Comparison) -> str:
    """Returns in how many runs the loss was still falling at the end, in a sentence; empty where in none."""
    summaries = comparison.runs.summaries
    if not {"lowest_loss.step", "steps"} <= set(summaries):
        return ""
    ended = summaries[summaries["status"] != "diverged"]
    falling = int((ended["lowest_loss.step"] == ended["steps"]).sum())
    if not falling:
        return ""
    sets = " or ".join(sorted(ended["best_on"].dropna().unique()))
    return (
        f"In {falling} of {len(summaries)} runs the loss on the {sets} set was lowest at the last evaluation: they may"
        " not have converged, and after a longer duration the order of the methods may be another."
    )
