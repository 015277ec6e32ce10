"""Drawn seeds, lengths, classes and folders: what is run is what was asked for, or it is refused in a line."""

import pytest
import torch
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from faults.fuzz import check_kinds, config, only_run, run
from faults.test_fuzz_data import data_set
from helpers.cli import built
from helpers.runs import rows, same_weights, timeless, train_run
from trainopt.runner.commands.resume import changed
from trainopt.runner.records.run_folder import read_config
from trainopt.runner.system.display import Display
from trainopt.runner.system.errors import UserError
from trainopt.runner.training.execute import start

SHORT = ("model=mlp", "model.hidden=[4]", "data.limit=60", "logger=none", "batching.size=13")  # 5 steps an epoch
OTHER_CLASSES = (
    "+regularizer.mine._target_=trainopt.optimizers.L2",
    "objective._target_=torch.nn.CrossEntropyLoss",
)
LITTER = (".DS_Store", "Thumbs.db", "._0.png", ".ipynb_checkpoints", "readme.txt", "__MACOSX", "empty", "desktop.ini")


def fuzz_seeds(draw, folder):
    """Two seeds that differ give other weights and another order, and so they are not equal modulo 2^32; or refused."""
    one = draw(st.integers(0, 2**32 - 1))
    other = draw(st.one_of(st.integers(-1, 2**65), st.sampled_from([one + 2**32, one + 2**64, one ^ 1, one, -one])))
    drawn = []
    for seed in (one, other):
        try:
            made = built("model=mlp", "data.limit=60", f"seed={seed}")
        except UserError as error:
            line = str(error)
        else:
            drawn.append([made.network.state_dict(), next(iter(made.batches())).inputs])
            continue
        assert line.startswith("seed=")
        assert not 0 <= seed < 2**32
        return
    weights = [torch.cat([value.flatten() for value in state.values()]) for state, _ in drawn]
    assert torch.equal(*weights) == (one == other)
    assert torch.equal(drawn[0][1], drawn[1][1]) == (one == other)


def fuzz_lengths(draw, folder):
    """A run made longer has the weights and the rows of one that was so long, or it stays as it was."""
    former = draw(st.integers(2, 9))
    longer = draw(st.integers(1, 15))
    every = st.sampled_from(["1steps", "3steps", "4steps", "0.5epochs", "1epochs", "1000epochs"])
    schedules = ["constant", "cosine", "cyclic schedule.step_up=2steps", "exponential", "one_cycle schedule.max_lr=0.2"]
    typed = [*SHORT, *f"schedule={draw(st.sampled_from(schedules))}".split(), f"log_every={draw(every)}"]
    typed += [f"evaluate_every={draw(every)}", f"batching.persistency={draw(st.sampled_from(['1', '2', '[2,1]']))}"]
    parts, whole = folder / "parts", folder / "whole"
    assert train_run(parts, *typed, f"duration={former}steps") == 0
    before = rows(parts)
    now, choices = read_config(parts)
    try:
        now, change = changed(parts, now, choices, [f"duration={longer}steps"])
        start(now, choices, parts, ["trainopt", "resume"], display=Display(quiet=True), change=change)
    except UserError:
        assert timeless(rows(parts)) == timeless(before)
        return
    train_run(whole, *typed, f"duration={longer}steps")
    assert same_weights(parts, whole)
    assert timeless(rows(parts, "train")) == timeless(rows(whole, "train"))
    at_both = [row for row in rows(parts, "test") if row["step"] in {r["step"] for r in rows(whole, "test")}]
    assert timeless(at_both) == timeless(rows(whole, "test"))
    assert {row["step"] for row in rows(parts, "test")} <= {former, *(r["step"] for r in rows(whole, "test"))}


def fuzz_classes(draw, folder):
    """A class that is named in place of an option's is what folder, run.yaml, `--cfg job` and `--help` say."""
    name = draw(st.sampled_from(["AdamW", "RAdam", "Rprop", "ASGD", "NAdam", "Adamax"]))
    option = draw(st.sampled_from(["sgd", "adam", "rmsprop"]))
    lr = draw(st.sampled_from([None, "0.01", "1e-3"]))
    words = [*SHORT, "duration=1steps", f"optimizer={option}", f"optimizer._target_=torch.optim.{name}"]
    words += [f"optimizer.lr={lr}"] if lr else []
    others = draw(st.lists(st.sampled_from(OTHER_CLASSES), unique=True))
    words += others
    ended = run(folder, *words)
    assert ended.code == 0, ended.out
    run_folder = only_run(folder)
    assert f"torch.optim.{name}" in run_folder.name
    section, choices = config(run_folder)["optimizer"], read_config(run_folder)[1]
    assert choices["optimizer"] == section["_target_"] == f"torch.optim.{name}"
    assert {key: value for key, value in section.items() if key != "_target_"} == ({"lr": float(lr)} if lr else {})
    assert f"_target_: torch.optim.{name}" in run(folder, *words, "--cfg", "job").out
    shown = run(folder, *words, "--help").out
    for text in (f"optimizer._target_=torch.optim.{name}", *others):
        key, _, target = text.lstrip("+").partition("=")
        assert f"\n{key}={target}  (" in shown
        assert OmegaConf.select(read_config(run_folder)[0], key) == target


def fuzz_litter(draw, folder):
    """What lies in folders of images beside these changes nothing."""
    litter = draw(st.lists(st.sampled_from(LITTER), unique=True))
    places = draw(st.lists(st.sampled_from(["", "train", "val", "train/a", "val/b"]), min_size=len(litter)))
    second = draw(st.sampled_from(["val", "test", "Validation", "VALID"]))
    for part, count in (("train", 4), (second, 2)):
        for label in "ab":
            (folder / "d" / part / label).mkdir(parents=True)
            for index in range(count):
                Image.new("L", (8, 8), 40 * index).save(folder / "d" / part / label / f"{index}.png")
    for name, place in zip(litter, places, strict=False):
        path = folder / "d" / place.replace("val", second) / name
        if "." in name[1:] and name != ".ipynb_checkpoints":
            path.write_bytes(b"nothing")
        else:
            path.mkdir()
            (path / "notes.txt").write_text("nothing")
    made, refused = data_set(
        folder, "data=imagefolder", f"data.path={folder}/d", "data.size=8", "data.workers=0", "batching.size=4"
    )
    assert made is not None, refused
    assert (len(made.training_set), len(made.evaluation_sets["test"]), made.num_classes) == (8, 4, 2), litter


@pytest.mark.slow
@pytest.mark.draws
@pytest.mark.parametrize("kind", [f for name, f in globals().items() if name.startswith("fuzz_")])
def test_drawn_inputs(kind, tmp_path):
    check_kinds(kind, tmp_path)
