"""Drawn inputs of many kinds: none ends in a traceback, a hang, or a wrong result without a word.

    TRAINOPT_FUZZ=500 .venv/bin/pytest tests/faults/test_fuzz*.py

draws so many in all; without the variable it is 25. Each runs the command line in a copy of this process.
"""

import locale
import os
import re
import select
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from faults.fuzz import (
    BRIEF,
    LIMIT_SECONDS,
    PUNCTUATION,
    RUN,
    check_done,
    check_kinds,
    config,
    only_run,
    run,
    wait_for,
    write_npz,
)
from helpers.cli import start_fork
from helpers.runs import check_same_run, rows
from trainopt.runner.config.options import CONF, Vocabulary, default_choices
from trainopt.runner.state.progress import Progress

NUMBERS = st.one_of(
    st.integers(-3, 10**12).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.floats(1e-6, 1.0).map(lambda x: f"{x:.3e}"),
    st.floats(1e-6, 1.0).map(lambda x: f"{x:.3E}"),
    st.sampled_from(
        [
            *[
                "1_000",
                "0x10",
                ".5",
                "5.",
                "+1",
                "1e400",
                "-1e400",
                "1e-400",
                "1e3",
                "2E2",
                "007",
                "0b1",
                "1e",
                "--1",
                "1,5",
                "½",
                "٣",
                "'1e-3'",
                "0.1f",
                "NaN",
                "-inf",
                "1e+2",
                "-0",
                "-0.0",
                "null",
                "1j",
            ],
            "",
            "1e-3 ",
            "1 000",
        ]
    ),
)


def fuzz_numbers(draw, folder):
    """A number is what Python reads in it, or it is refused."""
    key = draw(
        st.sampled_from(
            ["optimizer.lr", "optimizer.momentum", "data.limit", "seed", "batching.size", "batching.persistency"]
        )
    )
    text = draw(NUMBERS)
    ended = run(folder, *[word for word in BRIEF if not word.startswith(key + "=")], f"{key}={text}")
    if ended.code == 2:
        is_plain = re.fullmatch(r"\d+(\.\d*)?([eE][+-]?\d{1,2})?", text) and key == "optimizer.lr"
        assert not is_plain or float(text) == 0, (text, ended.out)
        return ended.check_refused(key, key.rpartition(".")[2], text.strip())
    value = config(only_run(folder))
    for part in key.split("."):
        value = value[part]
    bare = text.strip().strip("'")
    if text in ("", "null"):
        assert value is None
    elif bare not in ("0x10", "0b1"):
        assert float(value) == float(bare), (key, text, value)
        assert float(bare) != 0 or not any(c in "123456789" for c in bare.lower().split("e")[0]), f"{text} is 0"
    return None


def fuzz_run_names(draw, folder):
    """A run lies below outputs/ in the folder that was named, or the name is refused."""
    name = draw(st.text(st.sampled_from("ab1/" + PUNCTUATION), min_size=1, max_size=8))
    words = [word for word in BRIEF if not word.startswith("run.name")] + [f"run.name={name}"]
    before = {path.name for path in folder.parent.iterdir()}
    ended = run(folder, *words)
    assert {path.name for path in folder.parent.iterdir()} == before, "left its folder"
    assert {path.name for path in folder.iterdir()} <= {"output", "outputs"}
    if ended.code == 2:
        return ended.check_refused()
    assert ended.code == 0, ended.out
    folder_of_run = only_run(folder)
    assert config(folder_of_run)
    return check_done(folder, *words)


def fuzz_paths(draw, folder):
    """A path may hold any characters; where the line cannot be read, it is quoted in the message."""
    stem = draw(st.text(st.sampled_from("ab" + PUNCTUATION), min_size=1, max_size=8))
    name = f"d{stem}.npz"
    write_npz(folder / name)
    words = [word for word in BRIEF if not word.startswith("data.limit")]
    ended = run(folder, *words, "data=arrays", f"data.path={name}")
    if ended.code == 2:
        return ended.check_refused("path", "quote", "'")
    assert ended.code == 0, ended.out
    assert Path(config(only_run(folder))["data"]["path"]).name == name
    return check_done(folder, *words, "data=arrays", f"data.path={name}")


def fuzz_encodings(draw, folder):
    """A terminal that lacks characters gets other ones; files are in UTF-8."""
    encoding = draw(st.sampled_from(["latin-1", "ascii", "cp1252", "utf-16", "shift-jis", "cp437"]))
    name = draw(st.text(st.sampled_from("abäß日é🙂µ"), min_size=1, max_size=5))
    words = [word for word in BRIEF if not word.startswith("run.name")] + [f"run.name='{name}'"]

    def strange() -> None:
        locale.setlocale(locale.LC_ALL, "C")
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding=encoding, errors="strict")

    ended = run(folder, *words, before=strange, is_drawn=True)
    assert ended.code == 0, ended.out
    assert (folder / "outputs" / name / "summary.json").is_file()
    (folder / "outputs" / name / "log.txt").read_text(encoding="utf-8")
    assert config(folder / "outputs" / name)["run"]["name"] == name
    for verb in ("status", "compare"):
        assert run(folder, verb, f"outputs/{name}", before=strange).code == 0


def fuzz_key_names(draw, folder):
    """A key that there is not is named in a line, with exit code 2; nothing is written."""
    keys = Vocabulary([CONF]).keys({**default_choices(), "model": "mlp"})
    key = draw(st.sampled_from(keys))
    place = draw(st.integers(0, len(key) - 1))
    word = key[:place] + draw(st.sampled_from(["x", "q", "", "__", "-"])) + key[place + 1 :]
    if draw(st.booleans()):
        word = draw(
            st.sampled_from(["epochs", "batch_size", "lr", "weight_decay", "grad_clip", "--lr", "train", "é", "a.b"])
        )
    assume(word not in keys and word.rstrip(".") not in keys and not any(key.startswith(word + ".") for key in keys))
    assume(word.split(".")[0] != "hydra" and word)
    ended = run(folder, *BRIEF, f"{word}={draw(st.sampled_from(['1', 'abc', 'null', '[1]']))}")
    ended.check_refused(word, word.rpartition(".")[2], word.partition(".")[0])
    assert not (folder / "outputs").exists()


@cache
def undisturbed() -> Path:
    """Returns the folder of a run of eight steps that nobody disturbs."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["TRAINOPT_CACHE"]))
    assert run(folder, *RUN, "batching.size=12", "duration=8steps", "log_every=1steps").code == 0
    return folder / "outputs/a"


def fuzz_signals(draw, folder):
    """A run that a signal stops says how to go on, and ends with the same weights."""
    number = draw(st.sampled_from([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
    step = draw(st.integers(1, 7))
    advance = Progress.advance

    def stop() -> None:
        def advance_and_stop(self, batch):
            advance(self, batch)
            if self.step == step:
                os.kill(os.getpid(), number)

        Progress.advance = advance_and_stop

    words = (*RUN, "batching.size=12", "duration=8steps", "log_every=1steps")
    stopped = run(folder, *words, before=stop)
    assert stopped.code == 128 + number, stopped.out
    assert len(rows(folder / "outputs/a", "train")) == step
    again = run(folder, *words) if draw(st.booleans()) else run(folder, "resume", "outputs/a")
    assert again.code == 0, again.out
    check_same_run(undisturbed(), folder / "outputs/a")


def fuzz_pipes(draw, folder):
    """Where nobody reads any more, a run goes on and is recorded; other commands end in silence."""
    commands = [BRIEF, BRIEF, ("--help",), ("status", "outputs"), ("compare", "outputs"), (*BRIEF, "--cfg", "job")]
    words = draw(st.sampled_from(commands))
    if words[0] in ("status", "compare"):
        shutil.copytree(undisturbed(), folder / "outputs/a")
    count = draw(st.integers(0, 300))
    reader, writer = os.pipe()

    def into_pipe() -> None:
        os.dup2(writer, 1)
        os.close(reader)
        os.close(writer)

    pid = start_fork(*words, folder=folder, before=into_pipe)
    os.close(writer)
    with suppress(OSError):
        if select.select([reader], [], [], LIMIT_SECONDS)[0] and count:
            os.read(reader, count)
    os.close(reader)
    result = wait_for(pid, folder)
    assert result.code == 0, result.out
    assert "rror" not in result.out, result.out
    if words is BRIEF:
        assert (folder / "outputs/a/summary.json").is_file()


def fuzz_sweeps(draw, folder):
    """Two jobs whose values differ have two folders, and both are run with their values."""
    values = draw(
        st.lists(st.sampled_from(["0.1", "0.10", "1e-1", "1e-3", "0.001", "1E-3", "2", "2.0"]), min_size=2, max_size=2)
    )
    words = [word for word in BRIEF if not word.startswith("run.name")]
    ended = run(folder, "-m", *words, f"optimizer.lr={','.join(values)}")
    if ended.code == 2:
        assert float(values[0]) == float(values[1])
        return ended.check_refused("optimizer.lr")
    assert ended.code == 0, ended.out
    rates = sorted(config(file.parent)["optimizer"]["lr"] for file in (folder / "outputs").rglob("summary.json"))
    assert {*map(float, rates)} == {*map(float, values)}
    return None


def fuzz_widths(draw, folder):
    """No row of a table is wider than the terminal; where the output is none, nothing is cut."""
    width = draw(st.integers(40, 130))
    job = folder / "outputs/sweep/0"
    shutil.copytree(undisturbed(), job)
    verb = draw(st.sampled_from(["status", "compare", "evaluate"]))

    def narrow() -> None:
        os.environ |= {"COLUMNS": str(width), "FORCE_COLOR": "1", "TERM": "xterm"}

    ended = run(folder, verb, "outputs/sweep" if verb != "evaluate" else "outputs/sweep/0", before=narrow)
    assert ended.code == 0, ended.out
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip() for line in ended.out.splitlines()]
    assert lines
    assert verb == "compare" or max(map(len, lines)) <= width, lines  # it prints sentences, too


@pytest.mark.slow
@pytest.mark.draws
@pytest.mark.parametrize("kind", [f for name, f in globals().items() if name.startswith("fuzz_")])
def test_drawn_inputs(kind, tmp_path):
    check_kinds(kind, tmp_path)
