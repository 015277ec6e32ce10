"""Pages made from templates."""

from base64 import b64encode
from pathlib import Path
from typing import Any


def rendered(template: str, **values: Any) -> str:
    """Returns a page, made from one of the templates of trainopt.runner.reporting."""
    # where a run is made, nobody needs it
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("trainopt.runner.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def data_uri(svg: Path) -> str:
    """Returns a picture as an address that holds the picture itself."""
    return f"data:image/svg+xml;base64,{b64encode(svg.read_bytes()).decode()}"
