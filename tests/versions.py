"""Runs tests with each Python that is supported, and with the lowest and the newest versions of the dependencies.

    python tests/versions.py                        # the fast tests: 3.11 to 3.13, lowest and newest
    python tests/versions.py --python 3.11 --resolution lowest-direct -- tests/data tests/optimizers

uv makes an environment for each combination, in build/versions. A Python that it neither finds nor can install
counts as a failure.
"""

import argparse
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("metrics", "optimizers", "optuna", "trackers")
RESOLUTIONS = {"lowest-direct": "lowest", "highest": "newest"}  # of uv
COMPILED = ("matplotlib", "numpy", "pandas", "safetensors", "scikit-learn", "scipy", "torch", "torchvision")
DEFAULT_TESTS = ("-m", "not slow", "tests")


def uv(*arguments: str) -> None:
    subprocess.run(["uv", *arguments], cwd=ROOT, check=True)


def check(python: str, resolution: str, folder: Path, tests: list[str]) -> bool:
    """Returns whether the tests pass in a new environment.

    The tools of the tests are the newest ones whichever versions the project's own dependencies have.

    Args:
        python: version, as 3.12.
        resolution: of the dependencies, one of RESOLUTIONS.
        folder: of the environment; it is replaced.
        tests: arguments of pytest.
    """
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    wheels = [
        word for package in COMPILED for word in ("--only-binary", package)
    ]  # a new Python has none of old versions
    lowest = folder.parent / f"{folder.name}.txt"
    constraints = ("--constraint", str(lowest)) if resolution == "lowest-direct" else ()
    try:
        uv("venv", "--quiet", "--clear", "--python", python, str(folder))
        if constraints:  # the newest that fit together are what an installer takes without any
            uv(
                *("pip", "compile", "--quiet", "--no-deps", "--python-version", python, "--resolution", resolution),
                *(*extras, *wheels, "pyproject.toml", "--output-file", str(lowest)),
            )
        uv("pip", "install", "--quiet", "--python", str(folder), *constraints, "--editable", ".[dev]", *wheels)
    except subprocess.CalledProcessError:
        return False
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return not subprocess.run([folder / "bin" / "pytest", *tests], cwd=ROOT, env=environment).returncode


def main() -> int:
    """Returns the exit code: 0 where all combinations pass."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = [
        name.rpartition(" ")[2] for name in classifiers if name.startswith("Programming Language :: Python :: 3.")
    ]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=pythons, help="versions; usually those of the classifiers")
    parser.add_argument("--resolution", nargs="+", default=[*RESOLUTIONS], choices=RESOLUTIONS)
    parser.add_argument("tests", nargs="*", help="arguments of pytest, after --; usually all fast tests")
    options = parser.parse_args()
    results = {}
    for python in options.python:
        for resolution in options.resolution:
            name = f"{python}-{RESOLUTIONS[resolution]}"
            folder = ROOT / "build/versions" / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            print(f"== Python {python}, {RESOLUTIONS[resolution]} versions", flush=True)
            results[name] = check(python, resolution, folder, options.tests or [*DEFAULT_TESTS])
    for name, passed in results.items():
        print(f"{name}: {'passed' if passed else 'FAILED'}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
