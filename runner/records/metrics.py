"""Reads metrics.jsonl and evaluations.jsonl, the records of a run. Needs no torch.

A record is a line that holds a JSON object with at least `kind` and `step`:

    train               an update: the total and the terms of the loss, `lr`, `batch_size`, `top1` of a batch of classes
    validation, test    an evaluation: `loss`, and the metrics that are numbers, as `top1`, `top5`
    probe               what the diagnostic named `probe` measured at an update
    control             what the batch-size control decided after an update
    event               what the regularizer named `regularizer` did after an update
    void                none of these any more: in a run that was made longer, the record of its former end

What follows the last end of line is an incomplete record: a process still writes it, or was killed meanwhile.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..system.files import json_line

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"  # `trainopt evaluate RUN --follow` writes it; holds evaluations only
BLOCK_BYTES = 1 << 20  # that are read at a time
TAIL_BYTES = 16384  # of a file, in which its last record is sought first
VOID = "void"  # the kind of records that do not count
POSITION = ("step", "epoch")  # in `final` and `selected` of summaries

Record = dict[str, Any]


class DamagedMetrics(ValueError):
    """A file holds something else than complete records; the text names the file."""


def read_metrics(folder: Path, *kinds: str) -> list[Record]:
    """Returns the records in a run's metrics.jsonl.

    Args:
        folder: the run's.
        kinds: of the records; none: all that count.

    Raises:
        OSError: the file cannot be read.
        DamagedMetrics: it is damaged, or its last record is incomplete.
    """
    records = read_records(folder / METRICS_FILE)
    return [record for record in records if (record["kind"] in kinds if kinds else record["kind"] != VOID)]


def read_records(path: Path) -> list[Record]:
    """Returns all records in a file; raises what `read_metrics` does."""
    return [record for records in record_blocks(path) for record in records]


def record_blocks(path: Path) -> Iterator[list[Record]]:
    """Yields the records in a file in blocks, as frames take less memory; raises what `read_metrics` does."""
    with open(path, "rb") as file:
        while lines := file.readlines(BLOCK_BYTES):
            content = b"".join(lines)
            records, size = parse_records(content, path.name)
            if size < len(content):
                raise DamagedMetrics(f"{path.name} ends with an incomplete record")
            yield records


def parse_records(content: bytes, name: str) -> tuple[list[Record], int]:
    r"""Returns the complete records in a file's content, and the number of bytes that they take.

    >>> parse_records(b'{"kind": "test", "step": 1}\n{"kind": "te', "metrics.jsonl")
    ([{'kind': 'test', 'step': 1}], 28)

    Args:
        content: of the file.
        name: of the file, for errors.

    Raises:
        DamagedMetrics: a line holds no record.
    """
    size = content.rfind(b"\n") + 1
    lines = content[:size].rstrip()
    try:
        records = json.loads(b"[" + lines.replace(b"\n", b",") + b"]")  # faster than a call for each line
    except ValueError as error:
        raise DamagedMetrics(f"{name} is damaged") from error
    if not all(isinstance(record, dict) and "kind" in record and "step" in record for record in records):
        raise DamagedMetrics(f"{name} holds other objects than records of a run")
    return records, size


def owner_of(value: str, metrics: Collection[str]) -> str | None:
    """Returns the metric that a value of an evaluation is of; None where it is of none.

    >>> owner_of("top1", ["top1", "f1"]), owner_of("f1_macro", ["top1", "f1"]), owner_of("loss", ["top1"])
    ('top1', 'f1', None)

    Args:
        value: its name: that of the metric or, where this returns several values, `NAME_key`.
        metrics: names of metrics.
    """
    return value if value in metrics else next((name for name in metrics if value.startswith(f"{name}_")), None)


def direction(name: str, directions: Mapping[str, Any]) -> bool | None:
    """Returns whether more of a value is better; None where that is not known.

    A value `NAME_key` of a metric that returns several has the direction of NAME.
    """
    if name in ("loss", "top1", "top5"):
        return name != "loss"
    owner = owner_of(name, directions)
    value = None if owner is None else directions[owner]
    return None if value is None else bool(value)


def void_record(path: Path, kind: str, step: int) -> None:
    """Makes the record of a kind at the last step of a file one that does not count; nothing where there is none.

    The file keeps its length, to which checkpoints refer, and the records their numbers, by which trackers know them.
    """
    end = path.stat().st_size
    with open(path, "r+b") as file:
        for line in reversed(file.readlines()):
            text = line.decode()
            if text.isspace():  # version 0.2.0 put spaces there; killed then, it left them without an end of line
                text = json_line({"kind": kind, "step": step}).rjust(len(line) - 1) + "\n"
            record = json.loads(text)
            if record["step"] != step:
                return
            if record["kind"] == kind:
                file.seek(end - len(line))
                file.write(text.replace(f'"{kind}"', f'"{VOID}"'.ljust(len(kind) + 2), 1).encode())
                return
            end -= len(line)


def last_record(path: Path) -> Record:
    """Returns the last complete record in a file; empty where there is none, or it is damaged."""
    try:
        with open(path, "rb") as file:
            size, length, tail = file.seek(0, os.SEEK_END), TAIL_BYTES, b""
            while tail.count(b"\n") < 2 and len(tail) < size:
                file.seek(max(0, size - length))
                tail, length = file.read(), 2 * length
    except OSError:
        return {}
    lines = tail.split(b"\n")[-2:-1]
    try:
        return parse_records(lines[0] + b"\n", path.name)[0][-1] if lines else {}
    except DamagedMetrics:
        return {}
