"""A small study of one's own, and what is looked at when it is reproduced."""

import json
from pathlib import Path

RUN = ["model=mlp", "logger=none"]
TINY = {
    "title": "Tiny",
    "source": "nobody, 2020",
    "scales": {
        "smoke": {"about": "an MLP on digits", "minutes": 2},
        "small": {"about": "on MNIST", "data": ["mnist"]},
    },
    "sweeps": {
        "first": {"typed": {"smoke": [*RUN, "duration=4steps", "run.name=first"]}},
        "second": {
            "after": ["first"],
            "typed": {
                "smoke": [
                    *RUN,
                    "duration=0.5epochs",
                    "seed=0,1",
                    "model.weights={sweeps}/first/first/checkpoints/last.pt",
                ]
            },
        },
        "other": {"typed": {"small": [*RUN, "duration=2steps", "data=mnist"]}},
        "behind": {"after": ["other"], "typed": {"small": [*RUN, "duration=2steps"]}},
    },
}
OURS = ("--config-dir", "mine", "--launcher", "basic")


def states(tmp_path: Path, name: str = "tiny", scale: str = "smoke") -> dict[str, list]:
    """Returns [state, reason] of each sweep, as the double of the report wrote them."""
    return json.loads((tmp_path / f"outputs/studies/{name}/{scale}/states.json").read_text())


def times(folder: Path) -> dict[Path, int]:
    """Returns when each file below a folder was last changed, in nanoseconds."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
