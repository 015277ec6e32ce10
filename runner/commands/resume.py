"""`trainopt resume RUN [KEY=VALUE ...]`."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..config.forms.rules import number_for
from ..config.options import CONF, Vocabulary, shipped
from ..config.overrides import split_override
from ..config.quoting import quoted
from ..config.validate import check_value, leaves, unknown_key
from ..records.changes import CHANGEABLE, WHAT_MAY_CHANGE, Change, change_of, check_plan
from ..records.job_table import PLAN
from ..records.run_folder import read_config, strict_code
from ..search.compose import Composer
from ..system.errors import UserError
from ..system.flags import FlagParser, existing_folder
from ..system.hydra_compat import parse_override
from ..training.execute import start

DESCRIPTION = "Continue a run from its last checkpoint, or make it longer: `trainopt resume RUN duration=20epochs`."


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser("trainopt resume", description=DESCRIPTION)
    parser.add_argument("run", type=existing_folder, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help=f"a change from here on, of one of: {WHAT_MAY_CHANGE}",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 3 if the run diverged")
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt resume RUN [KEY=VALUE ...]`."""
    options = parser().parse_intermixed_args(arguments)
    parser().refuse([word for word in options.overrides if "=" not in word])
    folder = options.run
    if (folder / PLAN).exists():
        raise UserError(f"{folder}: is a sweep; type its command again to continue it")
    config, choices = read_config(folder)
    change = None
    if options.overrides:
        config, change = changed(folder, config, choices, options.overrides)
    code = start(config, choices, folder, ["trainopt", "resume", *arguments], debug, change=change)
    return strict_code(code, folder) if options.strict else code


def changed(
    folder: Path, config: DictConfig, choices: dict[str, Any], overrides: list[str]
) -> tuple[DictConfig, Change | None]:
    """Returns the configuration of a run with other values, and what that changes, if anything.

    Raises:
        UserError: a value is wrong, or the run would be another one with it.
    """
    former, now, typed = config, config.copy(), {}
    vocabulary = Vocabulary([CONF])
    for override in overrides:
        sign, key, text = split_override(override)
        if sign:
            raise UserError(f"{override}: must be KEY=VALUE, as duration=20epochs")
        if key == "logger":
            with Composer().composed([override]) as composed:
                now.logger = composed.logger
            continue
        if key in vocabulary.groups:
            raise UserError(f"{override}: the run has {key}={choices.get(key)}; another value makes another run")
        known = [name for name, _ in leaves(former)]
        if key not in known:
            raise UserError(unknown_key(key, [name for name in known if name.startswith(CHANGEABLE)], text))
        parsed = parse_override(quoted(override, in_sweep=False))
        if parsed.is_sweep_override():
            raise UserError(f"{override}: gives several values; a run takes one")
        value = parsed.value()
        number = number_for(value, shipped("allowed.yaml").get(key, ""))
        if number is None:
            check_value(key, value, key, text)
        OmegaConf.update(now, key, value if number is None else number)
        typed[key] = text
    try:
        change = change_of(former, now, typed)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    if change is not None:
        check_plan(folder)
    return now, change
