"""Sphinx: the site of docs/. `make docs` builds it into docs/_build; warnings, broken links among them, are errors."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "trainopt"
author = "The trainopt authors"
copyright = "2026, the trainopt authors"
version = release = version_of("trainopt")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
default_role = "code"  # `x` in docstrings
html_theme = "furo"
html_title = f"trainopt {version}"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_use_ivar = True
suppress_warnings = ["config.cache"]
smartquotes_action = "qe"  # -- stays as it is, in names of options
