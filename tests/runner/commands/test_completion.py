"""Completion in the shell: what is offered, in a real bash, zsh and fish, and that nothing is printed."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainopt.runner.commands.completion import keys_of_run, paths, words

BIN = Path(sys.executable).parent


def offered(prefix: str, *typed: str, commands: tuple[str, ...] = ()) -> list[str]:
    return [word for word in words(prefix, [*typed], [*commands]) if word.startswith(prefix)]


def test_the_first_word_is_a_command_or_a_group():
    assert offered("ev", commands=("evaluate", "status")) == ["evaluate", "evaluate_every=", "evaluation_sets="]
    assert {"evaluate", "model=", "regularizer="} <= {*offered("", commands=("evaluate",))}
    assert "optimizer.lr=" not in offered("")  # keys come with the first letter


@pytest.mark.parametrize(
    ("prefix", "typed", "expected"),
    [
        ("optimizer=adam", (), ["optimizer=adam", "optimizer=adamw"]),
        ("optimizer=sgd,ehn", ("-m",), ["optimizer=sgd,ehnewton", "optimizer=sgd,ehnewton_auto"]),
        ("experiment=menssen", (), ["experiment=menssen2019/mnist"]),
        ("regularizer=", (), ["regularizer=[checkpoint_distance]", "regularizer=[l2]"]),
        ("regularizer=[l2,", (), ["regularizer=[l2,checkpoint_distance]"]),
        ("optimizer.momen", (), ["optimizer.momentum="]),
        ("optimizer.momen", ("optimizer=adagrad",), []),
        ("++optimizer.momen", (), ["++optimizer.momentum="]),
        ("~optimizer.momen", (), ["~optimizer.momentum"]),
        ("precision=", (), ["precision=float32", "precision=tf32", "precision=bf16", "precision=fp16"]),
        ("compile=f", (), ["compile=false"]),
        ("hydra/launcher=", (), ["hydra/launcher=basic", "hydra/launcher=joblib"]),
        ("hydra.run.", (), ["hydra.run.dir="]),
        ("hydra.sweeper.over", ("hydra/sweeper=lr_heuristic",), ["hydra.sweeper.over_last="]),
        ("nonsense", (), []),
        ("nonsense=", (), []),
    ],
)
def test_a_word_of_a_run(prefix, typed, expected):
    assert offered(prefix, *typed) == expected


def test_options_of_ones_own_are_offered(tmp_path, monkeypatch):
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/magic.yaml").write_text("_target_: torch.optim.SGD\nwand: 1\n")
    monkeypatch.chdir(tmp_path)
    assert offered("optimizer=ma", "--config-dir", "mine") == ["optimizer=magic"]
    assert offered("optimizer.w", "--config-dir", "mine", "optimizer=magic") == ["optimizer.wand="]
    assert offered("optimizer=ma") == []


def test_folders_of_runs_are_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, file in (("a,seed=0", "run.yaml"), ("sweeps/b", "sweep.json"), ("a,seed=0/checkpoints", "last.pt")):
        (tmp_path / "outputs" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "outputs" / folder / file).touch()
    assert paths("", sweeps=False, files=False) == ["outputs/a,seed=0", "outputs/sweeps/"]
    assert paths("outputs/sweeps/", sweeps=False, files=False) == ["outputs/sweeps/b/"]
    assert paths("outputs/sweeps/", sweeps=True, files=False) == ["outputs/sweeps/b"]
    assert paths("outputs/a,seed=0/", sweeps=True, files=True) == ["outputs/a,seed=0/checkpoints/"]
    last = "outputs/a,seed=0/checkpoints/last.pt"
    assert paths("outputs/a,seed=0/checkpoints/", sweeps=True, files=True) == [last]
    assert offered("model.weights=outputs/a,seed=0/checkpoints/l") == [f"model.weights={last}"]


@pytest.mark.slow
def test_keys_that_may_change_are_offered_behind_the_run_that_is_resumed(tmp_path):
    text = "seed: 0\nduration: 2epochs\ndevice: auto\nlogger: {wandb: {project: a}}\nearly_stopping: {patience: 3}\n"
    (tmp_path / "run.yaml").write_text(f"{text}choices: {{}}\nfingerprint: abc\n")
    offered = keys_of_run("", tmp_path)
    assert {"duration=", "device=", "early_stopping.patience=", "logger="} <= {*offered}
    assert not any(word.startswith(("seed", "logger.", "run.")) for word in offered)
    assert keys_of_run("logger=[wandb,tr", tmp_path) == [
        "logger=[wandb,mlflow]",
        "logger=[wandb,none]",
        "logger=[wandb,tensorboard]",
        "logger=[wandb,trackio]",
    ]
    (tmp_path / "run.yaml").write_text("damaged: [")
    assert keys_of_run("", tmp_path) == []


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a script in a shell that finds `trainopt`, in a scratch folder with a run; returns its lines."""
    (tmp_path / "outputs/mlp,seed=0").mkdir(parents=True)
    (tmp_path / "outputs/mlp,seed=0/run.yaml").write_text("duration: 2epochs\nchoices: {}\nfingerprint: abc\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")

    def run(name: str, script: str) -> list[str]:
        done = subprocess.run([name, "-c", script], capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        return done.stdout.splitlines()

    return run


BASH = """
eval "$(trainopt -sc install=bash)"
offer() { COMP_LINE="$1"; COMP_POINT=${#1}; COMPREPLY=(); _python_argcomplete trainopt; echo "${COMPREPLY[*]}"; }
"""


@pytest.mark.slow
def test_bash(shell):
    lines = {
        "trainopt eval": "evaluate evaluate_every= evaluation_sets=",
        "trainopt model=mlp -m precision=t": "tf32 ",  # behind the equals sign, where bash breaks words
        "trainopt resume ": "outputs/mlp\\,seed=0 ",
        "trainopt resume outputs/mlp,seed=0 dura": "duration=",
        "trainopt compare outputs/mlp,seed=0 --x st": "steps ",
        "trainopt reproduce --scale s": "smoke small",
        "trainopt submit -m cluster.ti": "cluster.time=",
        "trainopt --help averag": "averaging averaging._target_ averaging.batch_norm_batches averaging.decay"
        " averaging.every averaging.over averaging.start averaging.warmup averaging= averaging._target_=",
        "trainopt --sp": "--space ",
        "trainopt -m --style p": "paper ",
        "trainopt --config-dir nowhere nonsense": "",
        "trainopt hydra/sweeper=nonsense hydra.sweeper.": "",
    }
    script = BASH + "\n".join(f"offer '{line}'" for line in lines)
    answers = shell("bash", script)
    for line, answer in zip(lines, answers, strict=True):
        assert answer.replace("\\,", ",") == lines[line].replace("\\,", ","), line


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(shell):
    script = 'trainopt -sc install=fish | source; complete -C "trainopt eval"; complete -C "trainopt resume outputs/m"'
    assert shell("fish", script) == ["evaluate", "evaluate_every=", "evaluation_sets=", "outputs/mlp,seed=0"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_in_a_terminal_the_word_is_completed_and_nothing_else_is_printed(shell, tmp_path, name):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere/optimizer").write_text("a file where a folder should be")
    start = ["bash", "--norc", "--noprofile", "-i"] if name == "bash" else ["zsh", "-f", "-i"]
    pid, terminal = pty.fork()
    if not pid:
        os.environ |= {"PS1": "> ", "TERM": "dumb"}
        os.execvp(start[0], start)
    init = "autoload -Uz compinit; compinit -u; " if name == "zsh" else ""
    try:
        screen(terminal, f'{init}eval "$(trainopt -sc install={name})"; clear; echo re""ady\n', until="ready")
        screen(terminal, "", until=None)
        said = screen(terminal, "trainopt resu\t", until="resume ")
        assert said.split()[:2] == ["trainopt", "resume"], said
        assert "outputs/mlp" in screen(terminal, "\t", until="seed")
        said = screen(terminal, "\x15trainopt --config-dir nowhere/optimizer hydra.swe=\t\t", until=None)
        assert "Traceback" not in said
        assert "rror" not in said
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(pid, 0)


def screen(terminal: int, keys: str, until: str | None) -> str:
    """Types keys; returns what is shown until a text appears, or without one until two seconds are silent."""
    os.write(terminal, keys.encode())
    text, end = "", time.monotonic() + 30
    while (until is None or until not in text) and time.monotonic() < end:
        if select.select([terminal], [], [], 2)[0]:
            text += os.read(terminal, 4096).decode(errors="replace")
        elif until is None:
            return text
    assert until in text, text
    return text


def test_a_shell_that_is_not_known(trainopt):
    result = trainopt("-sc", "install=zhs")
    assert (result.code, result.err) == (2, "trainopt: -sc install=zhs: no such shell; did you mean zsh?\n")
