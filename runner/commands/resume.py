"""`trainopt resume RUN`."""

from ..records.job_table import PLAN
from ..records.run_folder import read_config, strict_code
from ..system.errors import UserError
from ..system.flags import FlagParser, existing_folder
from ..training.execute import start


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser("trainopt resume", description="Continue a run from its last checkpoint.")
    parser.add_argument("run", type=existing_folder, metavar="RUN", help="the run's folder")
    parser.add_argument("--strict", action="store_true", help="exit with 3 if the run diverged")
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt resume RUN`."""
    options = parser().parse_args(arguments)
    folder = options.run
    if (folder / PLAN).exists():
        raise UserError(f"{folder}: is a sweep; type its command again to continue it")
    config, choices = read_config(folder)
    code = start(config, choices, folder, ["trainopt", "resume", *arguments], debug)
    return strict_code(code, folder) if options.strict else code
