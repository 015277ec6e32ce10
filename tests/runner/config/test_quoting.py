"""What is typed is read as it is: paths with any characters, names that look like numbers, numbers too small."""

import shlex

import pytest

from helpers.cli import refusal, sweep_refusal
from trainopt.runner.config.quoting import literal, quoted_overrides
from trainopt.runner.config.run_names import former_run_name, former_sweep_name, run_name, sweep_name
from trainopt.runner.system.errors import UserError
from trainopt.runner.system.hydra_compat import parse_override

NAMES = ("a,b=1,[2]/last.pt", 'it\'s & "ü" {x}.npz', "a b.npz", "#;!<>^`~", "42", "1e-3", "true", "[a]", "(x)", "a\\")


@pytest.mark.parametrize("key", ["model.weights", "data.path", "data.root", "batching.reference", "run.name"])
@pytest.mark.parametrize("value", NAMES)
def test_a_text_is_taken_as_it_is(key, value):
    (typed,) = quoted_overrides([f"{key}={value}"], in_sweep=False)
    assert parse_override(typed).value() == value


@pytest.mark.parametrize("value", [*NAMES, "", "null", "it's", 'a"b', "a,b", ["a,b", 1, None, 0.1], {"a": "x,y"}])
def test_a_value_is_written_as_hydra_reads_it(value):
    assert parse_override(f"key={literal(value)}").value() == value


def test_the_path_of_a_further_test_set_is_no_number():
    assert quoted_overrides(["+evaluation_sets.fog.path=1e5"], in_sweep=False) == ['+evaluation_sets.fog.path="1e5"']


def test_a_sweep_of_which_nothing_was_typed_has_no_former_name():
    assert former_sweep_name([], {"hydra/sweeper": "basic"}, sweep_name([], {"hydra/sweeper": "basic"})) is None


def test_what_hydra_reads_rightly_is_left_as_it_is():
    typed = ["optimizer.lr=1e-3", "seed=0,1", "model.hidden=[8,8]", "data.path='a b'", "model.weights=null", "~probe"]
    assert quoted_overrides(typed, in_sweep=False) == typed
    assert quoted_overrides(["model.weights=a,b", "seed=range(1,3)"], in_sweep=True) == [
        "model.weights=a,b",
        "seed=range(1,3)",
    ]


def test_a_path_that_is_there_is_one_value_of_any_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").touch()
    assert quoted_overrides(["+data.extra_path=a,b"], in_sweep=False) == ['+data.extra_path="a,b"']
    assert quoted_overrides(["+data.extra_path=c,b"], in_sweep=False) == ["+data.extra_path=c,b"]


def test_in_a_sweep_the_line_has_what_to_paste(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,x=1", "b,x=1"):
        (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        quoted_overrides(["model.weights=a,x=1,b,x=1"], in_sweep=True)
    (paste,) = shlex.split(str(error.value).partition("write ")[2])
    assert list(parse_override(paste).sweep_string_iterator()) == ['"a,x=1"', '"b,x=1"']


def test_names_and_numbers_of_a_sweep():
    assert quoted_overrides(["run.name=1,2e3"], in_sweep=True) == ['run.name="1","2e3"']
    assert quoted_overrides(["optimizer.lr='1e-3'"], in_sweep=True) == ["optimizer.lr=1e-3"]


@pytest.mark.parametrize("value", ["1e-400", "[1,-1e-400]", "1e400", "0.1,1e-999"])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(UserError, match=r"optimizer\.lr=.*no floating-point number"):
        quoted_overrides([f"optimizer.lr={value}"], in_sweep=True)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "."])
def test_a_name_that_leaves_the_folder_is_refused(name):
    assert "below outputs/" in refusal(f"run.name={name}")


SMALL = ("model=mlp", "model.hidden=[8]", "data.limit=20", "duration=1steps", "logger=none")


@pytest.mark.slow
def test_weights_are_read_from_a_folder_by_its_own_name(trainopt, tmp_path):
    assert trainopt(*SMALL).code == 0
    (run,) = (tmp_path / "outputs").iterdir()
    assert "," in run.name
    folder = str(run.relative_to(tmp_path))
    last = f"{folder}/checkpoints/last.pt"
    for command in (["resume", folder], ["evaluate", folder], ["status", folder]):
        result = trainopt(*command)
        assert result.code == 0, result.err
    result = trainopt(*SMALL, f"model.weights={last}", "run.name=42")
    assert result.code == 0, result.err
    assert (tmp_path / "outputs/42/summary.json").exists()
    swept = trainopt("-m", *SMALL, f"model.weights={last}", "seed=0,1")
    assert (swept.code, swept.err.count("\n")) == (2, 1)
    assert trainopt("-m", *SMALL, *shlex.split(swept.err.partition("write ")[2]), "seed=0,1").code == 0


def test_the_folder_of_an_earlier_version_is_named(trainopt, tmp_path):
    typed = [*SMALL, "data.root=a/b"]
    assert trainopt(*typed).code == 0
    (run,) = (tmp_path / "outputs").iterdir()
    former = run.rename(run.with_name(run.name.replace("a_b-" + run.name.partition("a_b-")[2][:8], "a_b")))
    result = trainopt(*typed)
    assert result.code == 2
    assert not run.exists()
    former.rename(run)
    assert "mv " in result.err
    assert "already finished" in trainopt(*typed).out


@pytest.mark.parametrize(
    ("one", "other"), [("duration=2step", "duration=2steps"), ("regularizer=l2", "regularizer=[l2]")]
)
def test_what_means_the_same_is_the_same_run(trainopt, tmp_path, one, other):
    """And so is a run or a sweep that an earlier version made with either."""
    typed = ["model=mlp", "logger=none", *(["duration=1steps"] if "duration" not in one else [])]
    assert trainopt(*typed, one).code == 0
    assert "already finished" in trainopt(*typed, other).out
    (run,) = (tmp_path / "outputs").iterdir()
    former = run.rename(run.with_name(run.name.replace(other, one)))
    result = trainopt(*typed, one)
    assert f"{former.name}: is this run, under the name of an earlier version" in result.err
    assert not run.exists()


def test_the_sweep_of_an_earlier_version_is_named(trainopt, tmp_path):
    typed = ["-m", *SMALL, "data.root=a/b", "seed=0"]
    assert trainopt(*typed).code == 0
    (sweep,) = (tmp_path / "outputs/sweeps").iterdir()
    former = sweep.rename(sweep.with_name(sweep.name.replace("a_b-" + sweep.name.partition("a_b-")[2][:8], "a_b")))
    result = trainopt(*typed)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{former.name}: is this sweep, under the name of an earlier version" in result.err
    assert not sweep.exists()


def test_a_long_name_of_an_earlier_version_is_found():
    choices, long = {"model": "mlp", "data": "digits", "optimizer": "sgd"}, f"data.path=/{'x' * 200}"
    name, former = run_name(choices, [long]), former_run_name(choices, [long], run_name(choices, [long]))
    assert name[:-12] == former[:-12]
    assert name != former
    assert former_run_name(choices, [long], "typed") is None


def test_a_number_in_a_file_that_would_become_zero_is_named(trainopt, tmp_path):
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    file = tmp_path / "mine/optimizer/tiny.yaml"
    file.write_text("_target_: torch.optim.SGD\nlr: 1e-400 # not 1e-500\n")
    result = trainopt("--config-dir", "mine", "optimizer=tiny")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{file.relative_to(tmp_path)}: 1e-400 is smaller than" in result.err.replace(f"{tmp_path}/", "")


def test_a_key_that_one_job_lacks_is_explained_by_the_choices_of_that_job():
    line = sweep_refusal("optimizer=sgd,adam", "optimizer.momentum=0.5")
    assert "optimizer=adam has no such key" in line
