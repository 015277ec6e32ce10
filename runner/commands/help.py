"""`trainopt --help`: commands, options, and the keys of the chosen options with the comments of conf/."""

import itertools
import re
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..config.options import CLUSTERS, CONF, Vocabulary, default_choices, list_groups, option_content, shipped
from ..config.overrides import (
    NO_CLASSES,
    OTHER_OPTIONS,
    OWN,
    config_folders,
    own_target,
    split_override,
    typed_overrides,
)
from ..system.errors import UserError, nearest
from ..system.files import shown
from ..system.flags import config_dirs, existing_folder

KEYS = "keys"  # a topic beside the groups
SWEEPERS = "hydra/sweeper"  # Hydra's group that has options of ours
MAX_WIDTH = 110

USAGE = """\
trainopt compares ways of training neural networks: one command is one run.

  trainopt [group=option] [key=value] …   one run; the same command again continues it or shows its result
  trainopt -m key=a,b …                   a sweep: a run for each combination; hydra/launcher=joblib: several at a time
  trainopt status SWEEP … [--json|--watch]   the state of each job of sweeps; --watch: kept up to date
  trainopt compare RUN|SWEEP … [--out DIR]   methods over seeds: table, significance test, curves, report
  trainopt -m experiment=tournament optimizer=a,b …   compare methods, each tuned with the same effort

  trainopt -m hydra/sweeper=optuna|lr_heuristic|tournament …   search hyperparameters, or a learning rate by rule
  trainopt resume RUN [duration=20epochs]   continue from the last checkpoint of a run; make it longer
  trainopt evaluate RUN [--checkpoint best|last|FILE] [--device DEVICE] [--follow]   --follow: while the run trains
  trainopt evaluate --ensemble RUN|CHECKPOINT … [--weights fit|W,W,…]   several networks and their ensemble
  trainopt submit [--to slurm|ray] -m key=a,b … [cluster.gpus=1 …]   a sweep on a cluster; again: only what is left
  trainopt cancel SWEEP [JOB …]           end a sweep on a cluster, or some of its jobs; runs leave a checkpoint
  trainopt landscape RUN|CHECKPOINT … [--out DIR]   loss and error between two checkpoints, or three
  trainopt export RUN [--checkpoint best|last|FILE] --out DIR   weights as safetensors, files to load them, a model card
  trainopt sync RUN|SWEEP … --to wandb|mlflow|trackio   records to a tracker; again: only what is new
  trainopt reproduce STUDY|all [--scale smoke|small|paper] [--dry-run]   run a published study, compare its results
  trainopt benchmark SUITE [optimizer=A,B] [--quick] [--studies K]   workloads with targets: scores of optimizers

  from trainopt.runner import train       one run from Python or a notebook: train(["optimizer=adam", "seed=1"])

  --help [GROUP|KEY|keys] this page with the keys of the typed options; or help on a group, a key, all keys
  --cfg job, --space  show only the configuration of the command; or the search space of its optimizer
  --config-dir DIR    read further options from DIR/GROUP/OPTION.yaml; then from $TRAINOPT_CONFIG_DIR
  GROUP._target_=module.Class   your own class, also in a module of the working directory (--help GROUP)
  --debug             show the traceback of an error
  --style paper|slides, --width 84mm   size and fonts of the figures of a search (and of compare, benchmark, reproduce)
  --strict            exit with 3 if a single or a resumed run diverged (without --strict, and in sweeps: with 0)
  --version, --hydra-help   show the version; or Hydra's own flags
  -sc install=SHELL   completion: eval "$(trainopt -sc install=bash)" in ~/.bashrc, zsh alike; fish: … | source
"""


class Section(NamedTuple):
    """A section of a configuration whose keys are shown.

    Attributes:
        key: its dotted key.
        group: of its option.
        option: that was chosen.
        is_typed: whether it or a key of it was typed, so that its keys are explained.
        target: the class that is named in place of the option's; None: none is.
    """

    key: str
    group: str
    option: str
    is_typed: bool = False
    target: str | None = None


def command(arguments: list[str], debug: bool) -> int:
    """Prints the help page for a command line, or that of a group; returns the exit code."""
    del debug
    vocabulary = Vocabulary([*config_folders(arguments), CONF])
    folders = config_dirs(arguments)
    for folder in folders:
        existing_folder(folder)
    topics = [word for word in arguments if word[:1] not in "-+~" and "=" not in word and word not in folders]
    if not topics:
        print(help_text(sections_of(arguments, vocabulary), vocabulary))
    elif topics[0] == KEYS:
        print("\n".join(key_lines()))
    elif topics[0] in (*vocabulary.groups, SWEEPERS):
        print(group_text(topics[0], vocabulary))
    elif topics[0].partition(".")[0] == CLUSTERS:
        print("\n".join(cluster_lines(vocabulary)))
    elif lines := option_key_lines(topics[0], vocabulary):
        print("\n".join(lines))
    elif topics[0].partition(".")[0] in shipped("config.yaml"):
        print("\n".join(lines_about(topics[0].partition(".")[0])))
    else:
        start = topics[0].rpartition(".")[0]
        known = topics_of(vocabulary)
        similar = nearest(topics[0], [topic for topic in known if topic.startswith(start)] or known)
        there_is = f"; there is help on {KEYS}, on each key and on each group"
        raise UserError(f"--help {topics[0]}: no such topic{similar or there_is}")
    return 0


def topics_of(vocabulary: Vocabulary) -> list[str]:
    """Returns what there is help on: all keys, a group, a key or a section of every run, a key of an option."""
    groups = {*default_choices()} - {*NO_CLASSES} - list_groups()
    keys = Vocabulary([CONF]).keys({group: vocabulary.options(group) for group in groups})
    names = (name for name in shipped("config.yaml") if name != "defaults")
    of_options = (key for key in keys if key.count(".") == 1)
    return [KEYS, *vocabulary.groups, SWEEPERS, CLUSTERS, *names, *vocabulary.keys({}), *of_options]


def sections_of(arguments: list[str], vocabulary: Vocabulary) -> list[Section]:
    """Returns the sections of the configuration that a command line leads to; of a sweep, that of its first values.

    Raises:
        UserError: it cannot be composed.
    """
    typed = typed_overrides(arguments)
    if not typed:
        return [Section(group, group, option) for group, option in default_choices().items() if isinstance(option, str)]
    # these import Hydra
    from ..config.explain import wrong_choice
    from ..config.quoting import quoted_overrides
    from ..config.run_names import option_choices
    from ..config.validate import replaced_classes
    from ..search.compose import Composer

    in_sweep = bool({"-m", "--multirun"} & {*arguments})
    overrides = list(filter(None, map(first_value, quoted_overrides(typed, in_sweep))))
    with Composer(config_folders(arguments)).composed(overrides) as config:
        choices, _ = option_choices(config.hydra)
        if line := wrong_choice(typed, vocabulary):
            raise UserError(line)
        classes = {section: str(node["_target_"]) for section, node, _ in replaced_classes(config, choices, vocabulary)}
        groups = {split_override(text)[1].partition(".")[0] for text in typed}
        sections = []
        for group in default_choices():
            names = [*(config.get(group) or ())] if group in list_groups() else [choices.get(group)]
            for name in map(str, names):
                key = f"{group}.{name}" if group in list_groups() else group
                target = classes.get(key)
                if vocabulary.file(group, name) is None and group in list_groups():
                    target = str(config[group][name].get("_target_"))  # that was added
                sections.append(Section(key, group, name, group in groups, target))
        if SWEEPERS in {split_override(text)[1] for text in typed}:
            sweeper = str(config.hydra.runtime.choices[SWEEPERS])
            sections.append(Section("hydra.sweeper", SWEEPERS, sweeper, is_typed=True))
    return sections


def first_value(override: str) -> str | None:
    """Returns an override with the first of its values; None for an interval.

    >>> first_value("optimizer=sgd,adam"), first_value("seed=range(2,4)"), first_value("model.hidden=[8,8]")
    ('optimizer=sgd', 'seed=2', 'model.hidden=[8,8]')
    """
    from hydra.errors import HydraException

    from ..system.hydra_compat import parse_override

    try:
        parsed = parse_override(override)
    except HydraException:
        return override  # its error is explained when all are composed
    if not parsed.is_sweep_override():
        return override
    values = parsed.sweep_string_iterator() if parsed.is_discrete_sweep() else ()
    return next((f"{parsed.get_key_element()}={value}" for value in values), None)


def help_text(sections: list[Section], vocabulary: Vocabulary) -> str:
    """Returns the page for a command line, with the keys of sections of its configuration."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    lines = [USAGE, "Groups (group=option; --help GROUP explains its options):", ""]
    lines += [f"  {group_line(group, vocabulary, width - 2)}" for group in vocabulary.groups]
    lines += ["", f"Keys of every run (key=value; --help {KEYS} explains them):", ""]
    lines += wrap_names(key_names(), width)
    explained: list[str] = []
    others: list[str] = []
    for section in sections:
        path = vocabulary.file(section.group, section.option)
        if section.target is not None:
            explained += class_lines(section, vocabulary)
        elif path is not None and section.is_typed:
            explained += option_lines(section.group, section.option, path)
        elif path is not None and (names := braces(section.group, option_content(path))):
            others.append(names)
    lines += ["", "Keys of the chosen options (trainopt GROUP=OPTION --help explains them):", ""]
    lines += wrap_names(others, width)
    return "\n".join([*lines, *explained])


def option_lines(group: str, option: str, path: Path) -> list[str]:
    """Returns the keys of an option with their comments, as they stand in its YAML; empty where it has none."""
    keys = _indented(_without(read_option(path), "defaults"))
    keys = [line for line in keys if not line.lstrip().startswith("_target_:")]
    has_keys = any(line != f"  {option}:" and not line.lstrip().startswith("#") for line in keys)
    return [f"{group}={option}", *keys] if has_keys else []


def wrap_names(names: list[str], width: int) -> list[str]:
    """Returns names as lines of at most a width, which end at commas, also at those in braces."""
    lines = [" "]
    for piece in re.findall("[^,]+,?", " " + ", ".join(names)):
        if len(lines[-1] + piece) > width:
            lines.append("  " + piece.lstrip())
        else:
            lines[-1] += piece
    return lines


def braces(name: str, keys: Iterable[str]) -> str:
    """Returns the names of the keys of a section, as in gradient.{clip_norm,clip_value}; empty where there are none."""
    names = [key for key in keys if key not in ("defaults", "_target_")]
    return f"{name}.{{{','.join(names)}}}" if names else ""


def class_lines(section: Section, vocabulary: Vocabulary) -> list[str]:
    """Returns the arguments of a class that is named in place of that of an option, with their defaults.

    The keys of the option's YAML need no plus before them.
    """
    from ..config.instantiate import arguments_of  # imports torch

    path = vocabulary.file(section.group, section.option)
    content = option_content(path) if path else {}
    known = [*content.get(section.option, content), *vocabulary.common_keys(section.group)]
    lines = [f"{section.key}._target_={section.target}  (a key with a plus is typed with it)"]
    for name, default in arguments_of(str(section.target), section.key).items():
        lines.append(f"  {name if name in known else f'+{name}'}: {default}")
    return lines


def group_line(group: str, vocabulary: Vocabulary, width: int) -> str:
    """Returns a group with as many of its options as fit into a line."""
    options = vocabulary.options(group)
    whole = f"{group}: {', '.join(options)}"
    if len(whole) <= width:
        return whole
    rest = f", … ({len(options)})"
    return textwrap.shorten(whole, width - len(rest), placeholder="").rstrip(",") + rest


def group_text(group: str, vocabulary: Vocabulary) -> str:
    """Returns the options of a group, each with the comment that its YAML begins with."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    lines = [f"Options of {group}, as in {group}=OPTION; trainopt {group}=OPTION --help shows the keys of one:", ""]
    for option in vocabulary.options(group):
        path = vocabulary.file(group, option)
        content = read_option(path).splitlines() if path else []
        comment = itertools.takewhile(lambda line: line.startswith("# "), content)
        about = " ".join(line.removeprefix("# ") for line in comment if "@package" not in line)
        lines += textwrap.wrap(f"{option}  {about}", width, initial_indent="  ", subsequent_indent="      ")
        if group == SWEEPERS and path:
            names = wrap_names([braces("hydra.sweeper", option_content(path))], width - 4)
            lines += [f"    {line}" for line in names]
    if group not in (*NO_CLASSES, SWEEPERS):
        what = OWN.get(group, "CONTRIBUTING.md says what it must have")
        keys = f"[+{group}.{'NAME.' if group in list_groups() else ''}KEY=VALUE …]"
        own = f"Your own: {own_target(group, 'module.Class')} {keys}: {what}"
        lines += ["", *textwrap.wrap("; ".join([own, *filter(None, [OTHER_OPTIONS.get(group)])]), width)]
    return "\n".join(lines)


def key_lines() -> list[str]:
    """Returns the keys that every run has, with their values and comments."""
    _, _, rest = read_option(CONF / "config.yaml").partition("\n")  # its first line is about the file
    return _indented(_without(rest, "defaults"))


def cluster_lines(vocabulary: Vocabulary) -> list[str]:
    """Returns what a task on a cluster asks for: the keys for each scheduler, with their values and comments.

    A value is that of the first folder of options whose file for the scheduler has the key.

    Raises:
        UserError: a file has a key or a value that cannot be.
    """
    from ..cluster.schedulers import SCHEDULERS  # imports Hydra
    from ..cluster.settings import read_settings, settings_in, value_text

    lines = []
    for path in sorted((CONF / CLUSTERS).glob("*.yaml")):
        first = vocabulary.file(CLUSTERS, path.stem) or path
        own = {} if first == path else settings_in(first)
        read_settings([], vocabulary.folders, path.stem, SCHEDULERS[path.stem].settings)  # refuses what a task would
        source = f"; from {shown(first)}: {', '.join(own)}" if own else ""
        lines.append(f"{CLUSTERS}.KEY=VALUE of trainopt submit --to {path.stem}{source}:")
        for line in _indented(read_option(path).splitlines()):
            key, comment = line.partition(":")[0], line.partition(" # ")[2]
            value = own.get(key.strip())
            lines.append(line if key.strip() not in own else f"{key}: {value_text(value)} # {comment}")
    return lines


def lines_about(name: str, path: Path = CONF / "config.yaml") -> list[str]:
    """Returns a key at the top of a YAML file, by default one that every run has, or a section of keys.

    The comments above it are of it.
    """
    lines = read_option(path).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
    stop = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    while lines[start - 1].startswith("#"):
        start -= 1
    return _indented(lines[start:stop])


def option_key_lines(key: str, vocabulary: Vocabulary) -> list[str]:
    """Returns a key of a group, as it stands in each option that has it; an empty list where none has."""
    group, _, name = key.partition(".")
    lines: list[str] = []
    for option in vocabulary.holders(group, name) if name and group in default_choices() else ():
        if path := vocabulary.file(group, option):
            lines += [f"{group}={option}:", *lines_about(name, path)]
    return lines


def key_names() -> list[str]:
    """Returns the names of these keys; those of a section in braces."""
    content = shipped("config.yaml")
    return [
        braces(name, value) if isinstance(value, dict) else name
        for name, value in content.items()
        if name != "defaults"
    ]


def read_option(path: Path) -> str:
    """Returns the text of a YAML file."""
    return path.read_text(encoding="utf-8", errors="replace")


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
