"""The links of the package: a workflow of a hosted repository names its address, which no file here knows."""

import os

from setuptools import setup

ADDRESS = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}"  # as GitHub's and Forgejo's workflows set them
PATHS = {"Repository": "", "Issues": "/issues", "Changelog": "/blob/main/CHANGELOG.md"}


def links() -> dict[str, str]:
    """Returns the links by their names; none outside of a workflow."""
    try:
        address = ADDRESS.format_map(os.environ)
    except KeyError:
        return {}
    return {name: address + path for name, path in PATHS.items()}


setup(project_urls=links())
