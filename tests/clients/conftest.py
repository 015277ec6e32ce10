"""All tests of clients are slow ones, and so are the imports of the clients."""

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Returns True, which leaves a file out, where slow tests are not run."""
    return True if config.option.markexpr == "not slow" else None
