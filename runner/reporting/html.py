"""HTML pages from templates."""

from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Returns a page from one of the templates of trainopt.runner.reporting, with these values."""
    environment = Environment(
        loader=PackageLoader("trainopt.runner.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment.get_template(template).render(**values)


MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".pdf": "application/pdf"}


def data_uri(figure: Path) -> str:
    """Returns an address that holds a figure, SVG, PNG or PDF, itself, for a page that needs no other file."""
    return f"data:{MEDIA_TYPES[figure.suffix]};base64,{b64encode(figure.read_bytes()).decode()}"
