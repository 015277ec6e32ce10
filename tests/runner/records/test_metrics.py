"""Records of a run: whole, incomplete and damaged files, told apart in one place."""

import json

import pytest

from trainopt.runner.records.frames import read_frame
from trainopt.runner.records.metrics import (
    METRICS_FILE,
    TAIL_BYTES,
    DamagedMetrics,
    last_record,
    parse_records,
    read_metrics,
    void_record,
)

RECORDS = [{"kind": kind, "step": step} for step in (1, 2) for kind in ("train", "test")]


def as_lines(records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture
def run(tmp_path):
    (tmp_path / METRICS_FILE).write_bytes(as_lines(RECORDS))
    return tmp_path


def test_records_are_read_in_order_and_by_kind(run):
    assert read_metrics(run) == RECORDS
    assert read_metrics(run, "test") == [record for record in RECORDS if record["kind"] == "test"]
    assert read_metrics(run, "train", "test") == RECORDS
    assert read_metrics(run, "probe") == []
    assert last_record(run / METRICS_FILE) == RECORDS[-1]


def test_an_empty_file_holds_no_records(run):
    (run / METRICS_FILE).write_bytes(b"")
    assert read_metrics(run) == []
    assert last_record(run / METRICS_FILE) == {}


@pytest.mark.parametrize("end", [b'{"kind": "te', b'{"kind": "test", "step": 3}'])
def test_what_follows_the_last_end_of_line_is_incomplete(run, end):
    content = as_lines(RECORDS) + end
    (run / METRICS_FILE).write_bytes(content)
    assert parse_records(content, METRICS_FILE) == (RECORDS, len(content) - len(end))
    assert last_record(run / METRICS_FILE) == RECORDS[-1]
    with pytest.raises(DamagedMetrics, match=r"metrics.jsonl ends with an incomplete record"):
        read_metrics(run)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"kind": "te\n', "is damaged"),
        (b"\0\0\0\0\n", "is damaged"),
        (b"\xff\xfe{}\n", "is damaged"),
        (b'{"kind": "test"}\n', "holds other objects than records"),
        (b"[1]\n", "holds other objects than records"),
    ],
)
def test_a_damaged_line_is_an_error(run, line, message):
    (run / METRICS_FILE).write_bytes(as_lines(RECORDS) + line)
    with pytest.raises(DamagedMetrics, match=rf"metrics.jsonl {message}"):
        read_metrics(run)
    assert last_record(run / METRICS_FILE) == {}


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path)
    assert last_record(tmp_path / METRICS_FILE) == {}


@pytest.mark.parametrize("values", [[], [0.0] * TAIL_BYTES])
def test_the_last_record_of_a_long_file_is_found_in_its_tail(run, values):
    many = [{"kind": "train", "step": step} for step in range(TAIL_BYTES // 20)]
    many.append({"kind": "probe", "step": 9, "eigen": values})
    (run / METRICS_FILE).write_bytes(as_lines(many))
    assert last_record(run / METRICS_FILE) == many[-1]


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (as_lines(RECORDS), [*RECORDS[:2], RECORDS[3]]),
        (as_lines(RECORDS[:2]) + b" " * 40, RECORDS[:2]),  # as version 0.2.0 left a record when it was killed
    ],
)
def test_a_void_record_keeps_its_place_and_does_not_count(tmp_path, content, left):
    path = tmp_path / METRICS_FILE
    path.write_bytes(content)
    void_record(path, "train", 2)
    void_record(path, "train", 2)
    assert path.stat().st_size == len(content)
    assert read_metrics(tmp_path) == read_frame(path).to_dict("records") == left
    assert len(parse_records(path.read_bytes(), METRICS_FILE)[0]) == len(left) + 1
