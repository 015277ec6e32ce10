"""`trainopt export RUN --out DIR`: the weights of a checkpoint, what loads them, and a model card."""

from pathlib import Path

from ..records.run_folder import read_config
from ..system.display import Display
from ..system.errors import UserError
from ..system.files import shown
from ..system.flags import FlagParser, existing_folder


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt export",
        description="Write the weights of a run as safetensors, with files for timm or PyTorch, and a model card.",
    )
    parser.add_argument("run", type=existing_folder, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--checkpoint", default="last", metavar="best|last|FILE", help="checkpoint that is exported; default: last"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the files: a new one, or that of an earlier export"
    )
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt export RUN --out DIR`."""
    del debug
    options = parser().parse_args(arguments)
    if options.out is None:
        raise UserError("export: --out is missing; give --out DIR, a new folder")
    read_config(options.run)  # says what is wrong before torch is imported
    from ..export.export import export_run

    names = export_run(options.run, options.checkpoint, options.out, Display())
    print(f"files: {shown(options.out)}/ ({', '.join(names)})")
    return 0
