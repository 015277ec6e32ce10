"""What a command costs that trains nothing, against `python -c "import torch"`; whole processes."""

import subprocess
import sys
from pathlib import Path

from pairs import hardware, ratios, report, seconds

COMMANDS = {
    "trainopt --help": ["--help"],
    "trainopt --cfg job": ["--cfg", "job"],
    "a mistyped key": ["optimizer.lrr=1"],
}


def main() -> bool:
    """Measures every command."""
    print(f"\nStart-up against importing torch, seconds. {hardware()}")
    program = str(Path(sys.executable).with_name("trainopt"))

    def process(command: list[str]) -> float:
        return seconds(lambda: subprocess.run(command, capture_output=True, check=False))

    holds = True
    for name, arguments in COMMANDS.items():
        a, b, ratio = ratios(
            lambda arguments=arguments: process([program, *arguments]),
            lambda: process([sys.executable, "-c", "import torch"]),
            9,
        )
        holds &= report(f"{name}: {a:.2f} / {b:.2f}", ratio, 0.3)
    return holds


if __name__ == "__main__":
    raise SystemExit(not main())
