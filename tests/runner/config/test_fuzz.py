"""Whatever is typed runs, or ends with exit code 2 and a line or three that name a key."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.cli import built
from trainopt.runner.config.options import CONF, Vocabulary, default_choices, list_groups
from trainopt.runner.config.overrides import split_override
from trainopt.runner.system.errors import UserError

WORDS = Vocabulary([CONF])
SMALL = {"model": ("mlp", "resnet8")}  # the others take minutes here
BASE = ("model=mlp", "data.limit=64", "evaluate_every=1000epochs", "duration=2steps", "logger=none")
VALUES = (
    *("0", "1", "-1", "2", "7", "0.5", "1e-3", "1e9", "1e30", "-0.0", "nan", "inf", "9999999999999999999999"),
    *("true", "false", "null", "abc", "''", "'a b'", "é", "relu", "cpu", "cuda:7", "all", "last_layer", "???"),
    *(
        "[]",
        "[1]",
        "[1,2]",
        "[0.9,0.99]",
        "[[1]]",
        "[l2]",
        "{}",
        "{a:1}",
        "[1epochs]",
        "2epochs",
        "3steps",
        "0.5steps",
    ),
    *("${seed}", "${nope}", "${oc.env:HOME}", "a=b", "[1", "/nowhere/x.npz"),
)
SENSIBLE = (
    *("seed=3", "optimizer.lr=0.01", "batching.size=16", "batching.persistency=2", "data.validation=0.2"),
    *(
        "augmentation.crop_padding=1",
        "augmentation.flip=0.5",
        "model.hidden=[8]",
        "objective.label_smoothing=0.1",
        "run.name=a",
    ),
    *("early_stopping.patience=2", "keep_checkpoints.every=3", "checkpoint_every=1steps", "++seed=4"),
    *("log_every=0.1epochs", "deterministic=true", "precision=bf16", "channels_last=true", "device=cpu"),
    *(
        "batching.persistency=[2,1]",
        "batching.repeat_lr_factor=0.5",
        "schedule.warmup=1epochs",
        "augmentation.cutout=3",
    ),
    *("augmentation.mixup=0.4", "augmentation.fill=mean", "augmentation.crop_probability=0.5"),
)


@st.composite
def command_lines(draw) -> list[str]:
    """Options, sensible values, values of keys with every sign, misspelt keys."""
    choices, typed = {"model": "mlp"}, list(BASE)
    for group in draw(st.lists(st.sampled_from(WORDS.groups), max_size=2)):
        option = draw(st.sampled_from(SMALL.get(group, tuple(WORDS.options(group)))))
        choices[group] = option
        typed.append(f"{group}=[{option}]" if group in list_groups() else f"{group}={option}")
    keys = WORDS.keys({**default_choices(), **choices})
    typed += draw(st.lists(st.sampled_from(SENSIBLE), max_size=3))
    for known in draw(st.lists(st.sampled_from(keys), max_size=2)):
        key = known
        sign = draw(st.sampled_from(["", "", "", "", "+", "++", "~"]))
        if draw(st.integers(0, 9)) == 0:
            place = draw(st.integers(0, len(known) - 1))
            key = known[:place] + draw(st.sampled_from("xq.")) + known[place + 1 :]
        typed.append(sign + key + ("" if sign == "~" else "=" + draw(st.sampled_from(VALUES))))
    return typed


def names(word: str) -> set[str]:
    """What a message may call a key: itself, its last part, or the part of the configuration that it is in."""
    key = split_override(word)[1]
    if key in ("experiment", "debug"):  # these choose others
        return {*WORDS.groups}
    return {key, key.rpartition(".")[2], key.partition(".")[0]}


@pytest.mark.slow
def test_300_command_lines(trainopt, tmp_path, monkeypatch):
    monkeypatch.delenv("TRAINOPT_DATA", raising=False)
    ended = {0: 0, 2: 0}

    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(command_lines())
    def check(typed):
        try:
            try:
                built(*typed)
            except UserError as error:
                message, code = str(error), 2
            else:
                result = trainopt(*typed)
                message, code = result.err.strip(), result.code
                assert "Traceback" not in result.out + result.err
            assert code in ended, message
            if code == 2:
                assert message.count("\n") <= 2
                assert any(name in message for word in typed[len(BASE) :] for name in names(word)), message
            ended[code] += 1
        finally:
            shutil.rmtree(Path("outputs"), ignore_errors=True)
            torch.use_deterministic_algorithms(False)

    check()
    assert min(ended.values()) > 30
