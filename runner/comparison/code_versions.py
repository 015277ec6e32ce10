"""The versions of the user's code, of the program, of torch and of the data of runs. Needs no torch."""

import math
from typing import Any

import pandas as pd

from ..provenance.user_code import digests_by_file

NAMED_RUNS = 2  # of each version


def code_versions(environments: pd.DataFrame) -> pd.DataFrame:
    """Returns the version of each file of which runs have several: a row a run, a column `code.FILE` a file.

    A version is the first 8 digits of the file's digest; of a run that went on with another one, all, with `+` between
    them. It is missing where a run did not use the file, or is of an earlier version of the program.

    Args:
        environments: the contents of environment.json, as `load_runs` returns them.
    """
    by_run: dict[str, dict[str, list[str]]] = {}
    for run, environment in environments.to_dict("index").items():
        files = by_run.setdefault(str(run), {})
        for start in [*listed(environment.get("earlier")), environment]:
            for file, digest in digests_by_file(listed(start.get("code"))).items():
                versions, version = files.setdefault(file, []), str(digest)[:8]
                if version not in versions:
                    versions.append(version)
    names = dict.fromkeys(file for files in by_run.values() for file in files)
    several = [n for n in names if len({v for files in by_run.values() for v in files.get(n, ())}) > 1]
    columns = {
        f"code.{name}": ["+".join(files.get(name, ())) or math.nan for files in by_run.values()] for name in several
    }
    return pd.DataFrame(columns, index=environments.index, dtype=object)


def listed(value: Any) -> list[Any]:
    """Returns a value of a frame that is a list; an empty one in place of a gap."""
    return value if isinstance(value, list) else []


def code_obstacles(versions: pd.DataFrame) -> list[str]:
    """Returns a line for each file of which runs have several versions, with the runs of each."""
    lines = []
    for column in versions:
        parts = []
        for version, runs in versions.groupby(column, sort=False).groups.items():
            more = f" and {len(runs) - NAMED_RUNS} more" if len(runs) > NAMED_RUNS else ""
            parts.append(f"{version} in {', '.join(map(str, runs[:NAMED_RUNS]))}{more}")
        lines.append(f"different code: {column.removeprefix('code.')} is {'; '.join(parts)}")
    return lines


def program_obstacles(environments: pd.DataFrame) -> list[str]:
    """Returns a line for each mark of the program's version that differs between runs."""
    lines = []
    for column, what in {"commit": "commits", "versions.trainopt": "versions", "dirty": ""}.items():
        values = environments[column].dropna().unique() if column in environments else []
        if len(values) > 1:
            different = f"different {what} of the program: {', '.join(str(v)[:12] for v in values)}"
            lines.append(different if what else "uncommitted changes of the program in some runs, none in others")
    return lines


def environment_text(environments: pd.DataFrame) -> str:
    """Returns that runs differ in torch's version or the number of threads, in a sentence; empty where they do not."""
    parts = []
    for column, name in {"versions.torch": "version of torch", "threads": "number of threads"}.items():
        values = environments[column].dropna().unique() if column in environments else []
        texts = [value if isinstance(value, str) else f"{value:g}" for value in sorted(values)]
        parts += [f"{name} ({', '.join(texts)})"] if len(texts) > 1 else []
    return f"Runs differ in {' and '.join(parts)}: their results may do so, too." if parts else ""


def data_checksums(environments: pd.DataFrame) -> pd.Series:
    """Returns the checksum of the data at each start of each run that recorded one: an entry a start, by run."""
    by_run = {}
    for run, environment in environments.to_dict("index").items():
        earlier = [start.get("data_checksum", {}).get("value") for start in listed(environment.get("earlier"))]
        by_run[run] = [*earlier, environment.get("data_checksum.value")]
    return pd.Series(by_run, dtype=object).explode().dropna()
