"""`trainopt --help`: commands, options, and the keys of the chosen options with the comments of conf/."""

import re
import shutil
import textwrap

from ..config.options import CONF, Vocabulary
from ..config.overrides import chosen, config_folders, typed_overrides

USAGE = """\
trainopt compares ways of training neural networks: one command is one run.

  trainopt [group=option] [key=value] …   one run; the same command again continues it or shows its result
  trainopt -m key=a,b …                   a sweep: one run for every combination; again: those not done yet
  trainopt -m hydra/launcher=joblib …     several at a time
  trainopt -m hydra/sweeper=lr_heuristic …   find the learning rate by the rule of Zorca 2020
  trainopt resume RUN                     continue from the last checkpoint in a run's folder
  trainopt evaluate RUN [--checkpoint best|last|FILE] [--device DEVICE]
  trainopt evaluate RUN --follow          every checkpoint of a run while it trains, also on another device
  trainopt evaluate --ensemble RUN|CHECKPOINT … [--weights fit|W,W,…]   several networks and their ensemble
  trainopt status SWEEP [--json]          the state of each job of a sweep
  trainopt compare RUN|SWEEP … [--out DIR]   methods over seeds: table, significance test, curves, report
  trainopt landscape RUN|CHECKPOINT … [--out DIR]   loss and error between two checkpoints, or three
  trainopt reproduce STUDY|all [--scale smoke|small|paper] [--dry-run]   run a published study, compare its results

  --help              this page, with the keys of the options of the command line
  --cfg job           show the configuration of a command without running it
  --config-dir DIR    read further options from DIR/GROUP/OPTION.yaml
  GROUP._target_=module.Class   a class of your own; modules of the working directory are found
  --debug             show the traceback of an error
  --strict            exit with 3 where a single or a resumed run diverged; without it, and in sweeps: with 0
  --version           show the version
  --hydra-help        show Hydra's own flags (completion for the shell, …)
"""


def command(arguments: list[str], debug: bool) -> int:
    """Prints the help page for a command line; returns the exit code."""
    del debug
    print(help_text(typed_overrides(arguments), Vocabulary([*config_folders(arguments), CONF])))
    return 0


def help_text(overrides: list[str], vocabulary: Vocabulary) -> str:
    """Returns the page for a command line."""
    width = min(shutil.get_terminal_size().columns, 110)
    lines = [USAGE, "Groups (group=option):", ""]
    for group in vocabulary.groups:
        options = ", ".join(vocabulary.options(group))
        lines += textwrap.wrap(f"{group}: {options}", width, initial_indent="  ", subsequent_indent="      ")
    lines += ["", "Keys (key=value; those of a section as section.key=value):", ""]
    _, _, rest = (CONF / "config.yaml").read_text(encoding="utf-8").partition("\n")  # its first line is about the file
    lines += _indented(_without(rest, "defaults"))
    for group, choice in chosen(overrides, vocabulary).items():
        for option in choice if isinstance(choice, list) else [choice]:
            path = vocabulary.file(group, str(option))
            if path is not None:
                lines += ["", f"{group}={option}"]
                lines += _indented(_without(path.read_text(encoding="utf-8", errors="replace"), "_target_", "defaults"))
    return "\n".join(lines)


def _without(text: str, *sections: str) -> list[str]:
    """Returns the lines of a YAML text without some top-level sections."""
    lines, inside = [], False
    for line in text.splitlines():
        if re.match(r"\S", line) and not line.startswith("#"):
            inside = line.partition(":")[0] in sections
        if not inside:
            lines.append(line)
    return lines


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines if line.strip()]
