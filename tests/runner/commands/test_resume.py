"""`trainopt resume RUN KEY=VALUE`: a run made longer is the run that was as long from the start."""

import json

import pytest

from helpers.cli import prepared
from helpers.runs import check_same_run, rows, stop_at, summary, train_run
from trainopt.runner.commands.resume import changed
from trainopt.runner.config.validate import leaves
from trainopt.runner.records.changes import changed_job
from trainopt.runner.records.run_folder import fingerprint, read_config, read_history
from trainopt.runner.system.errors import UserError
from trainopt.runner.training import execute

MLP = "model=mlp model.hidden=[8] data.limit=64 logger=none duration=2epochs"
SHORT = f"{MLP} batching.size=10"  # 7 steps an epoch
QUICK = [
    "model.dropout=0.2 log_every=3steps",  # the former end, step 14, has a row that the longer run has not
    "log_every=0.7epochs batching.size=9 optimizer=adam",  # no end of an epoch is a multiple
]
LONGER = [
    "log_every=7steps schedule=exponential schedule.every=5steps batching.persistency=3 duration=42steps",
    "schedule=cosine schedule.over=3epochs schedule.warmup=3steps augmentation.flip=0.5",
    "schedule=cyclic schedule.step_up=4steps data.validation=0.2 batching.size=13",
    "data.validation=0.2 schedule=plateau schedule.patience=0 early_stopping.patience=9",
    "regularizer=[l2,checkpoint_distance] regularizer.checkpoint_distance.every=1epochs",
]


def resumed(folder, *overrides):
    """Returns the one line in which a change of a run is refused; "" where it goes on, at once to its end."""
    try:
        config, choices = read_config(folder)
        config, change = changed(folder, config, choices, list(overrides))
        assert execute.start(config, choices, folder, ["trainopt", "resume"], change=change) == 0
    except UserError as error:
        return "".join(str(error).splitlines(keepends=True)[:1])
    return ""


@pytest.mark.parametrize("line", [*QUICK, *(pytest.param(line, marks=pytest.mark.slow) for line in LONGER)])
def test_a_run_made_longer_is_the_run_that_was_so_long(trained, tmp_path, line):
    typed = f"{SHORT} {line}".split()
    former = next(word for word in reversed(typed) if word.startswith("duration="))
    longer = {"duration=2epochs": "duration=4epochs", "duration=42steps": "duration=60steps"}[former]
    whole, parts = trained(*typed, longer, name="whole"), trained(*typed, name="parts")
    assert resumed(parts, longer) == ""
    check_same_run(parts, whole)
    assert fingerprint(read_config(parts)[0]) == fingerprint(read_config(whole)[0]) == summary(parts)["fingerprint"]
    assert train_run(parts, *typed, longer) == 0  # shows the result
    with pytest.raises(UserError, match="holds a run with another configuration: duration"):
        train_run(parts, *typed)


def test_what_it_was_is_on_record(trainopt, tmp_path):
    trainopt("model=mlp", "duration=4steps", "run.name=a", "logger=none")
    folder = tmp_path / "outputs/a"
    result = trainopt("resume", "outputs/a", "duration=9steps", "log_every=3steps", "logger=tensorboard")
    assert result.code == 0
    assert "from step 4 on duration=9steps, log_every=3steps" in result.out
    assert read_history(folder)[0]["before"]["duration"] == "4steps"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["command"][-3:] == ["duration=9steps", "log_every=3steps", "logger=tensorboard"]
    assert [part["command"][1] for part in environment["earlier"]] == ["model=mlp"]
    assert list(read_config(folder)[0].logger) == ["tensorboard"]
    assert list(folder.glob("events.*"))
    assert trainopt("resume", "outputs/a", "duration=12steps").code == 0
    assert [change["step"] for change in read_history(folder)] == [4, 9]
    # the row of step 4, which only the former end asked for, is gone, and so is that of no other step
    assert [row["step"] for row in rows(folder, "train")] == [6, 9, 12]
    # an evaluation that the former end alone asked for stays: nothing followed it
    assert [row["step"] for row in rows(folder, "test")] == [0, 4, 9, 12]


def test_a_stopped_run_gets_another_end(trainopt, tmp_path, monkeypatch):
    stop_at(monkeypatch, 15)
    trainopt("model=mlp", "duration=3epochs", "run.name=a", "logger=none")
    assert "has no steps to come, after 15 steps" in trainopt("resume", "outputs/a", "duration=15steps").err
    assert summary(tmp_path / "outputs/a")["status"] == "interrupted"
    assert trainopt("resume", "outputs/a", "duration=20steps", "evaluate_every=17steps").code == 0
    assert [row["step"] for row in rows(tmp_path / "outputs/a", "test")] == [0, 12, 17, 20]


def test_more_patience_lets_a_run_go_on(trained, tmp_path):
    typed = f"{SHORT} duration=9epochs data.validation=0.2 optimizer.lr=1e-9".split()
    parts = trained(*typed, "early_stopping.patience=2", name="parts")
    assert summary(parts)["epochs"] == 2
    assert "has no steps to come: no improvement" in resumed(parts, "duration=20epochs")
    assert "might have ended" in resumed(parts, "early_stopping.patience=1")
    assert resumed(parts, "early_stopping.patience=4") == ""
    check_same_run(parts, trained(*typed, "early_stopping.patience=4", name="whole"))


REFUSED = {
    "optimizer.lr=0.2": "optimizer.lr=0.2: the run had 0.1 until now, and would be another run; what may change is",
    "optimizer=adam": "optimizer=adam: the run has optimizer=sgd",
    "run.name=b": " until now, and would be another run",
    "epochs=5": "epochs: unknown key; did you mean duration=5epochs?",
    "duratoin=5epochs": "did you mean duration?",
    "+x=1": "must be KEY=VALUE",
    "duration=3": "duration=3: must be a duration",
    "duration=5epochs,6epochs": "gives several values",
    "duration=1epochs": "has no steps to come, after 14 steps (2 epochs)",
    "keep_checkpoints.last=3": "keep_checkpoints.last: the run has no steps to come",
    "early_stopping.patience=3": "the run had null until now",
    "device=cuda:7": "device=cuda:7",
    "logger=nonsense": "logger=nonsense",
}


def test_what_would_change_the_past_is_refused(trained):
    folder = trained(*SHORT.split())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for override, line in REFUSED.items():
        assert line in resumed(folder, override)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


FOLLOWS = [  # what looks at the duration, or at evaluations that a longer run has not
    ("schedule=cosine", "duration=4epochs", "schedule.over=2epochs is as long as the run"),
    ("schedule=cosine", "duration=4epochs", "takes a new run with model.weights=RUN/checkpoints/last.pt"),
    ("averaging=swa", "duration=4epochs", "give averaging.over=2epochs, too, if it stays"),
    ("schedule=range_test duration=14steps", "duration=20steps", "schedule.over=14steps is as long as the run"),
    ("schedule=range_test schedule.over=9steps", "duration=9epochs", "a range test ends"),
    ("batching.persistency=[2,1]", "duration=4epochs", "batching follows the duration"),
    ("batching=dynamic batching.stages=[5,9]", "duration=4epochs", "batching follows the duration"),
    ("regularizer=[checkpoint_distance]", "duration=4epochs", "regularizer.checkpoint_distance follows the duration"),
    (
        "data.validation=0.2 schedule=plateau duration=5steps",
        "duration=9steps",
        "the run was evaluated at its end, step 5",
    ),
    (
        "data.validation=0.2 early_stopping.patience=9",
        "duration=4epochs evaluate_every=2epochs",
        "early_stopping.patience follows evaluations",
    ),
    ("optimizer.lr=1e30", "duration=4epochs", "the run diverged"),
]


@pytest.mark.parametrize(("line", "change", "reason"), FOLLOWS)
def test_what_followed_the_duration_is_named(trained, line, change, reason):
    folder = trained(*f"{MLP if 'batching=' in line else SHORT} {line}".split())
    assert reason in resumed(folder, *change.split())
    assert summary(folder)["status"] in ("finished", "diverged")


def test_a_schedule_as_long_as_the_run_was_may_be_fixed(trained):
    typed = f"{SHORT} schedule=cosine".split()
    parts = trained(*typed, name="parts")
    assert resumed(parts, "duration=3epochs", "schedule.over=2epochs") == ""
    note = "note: the learning rate is 0 from 2epochs to the end of the run, 3epochs: the weights stay as they are"
    assert note in (parts / "log.txt").read_text()
    check_same_run(parts, trained(*typed, "duration=3epochs", "schedule.over=2epochs", name="whole"))


def test_killed_between_its_files_the_same_command_goes_on(trained, monkeypatch):
    folder = trained(*SHORT.split(), name="parts")
    with monkeypatch.context() as patch:
        patch.setattr(execute, "write_header", lambda *args, **options: exit(9))
        with pytest.raises(SystemExit):
            resumed(folder, "duration=3epochs")
    assert summary(folder)["status"] == "interrupted"
    assert resumed(folder, "duration=3epochs") == ""
    check_same_run(folder, trained(*SHORT.split(), "duration=3epochs", name="whole"))


@pytest.mark.slow
def test_the_job_table_knows_a_longer_job(trainopt, tmp_path):
    sweep = ("-m", "model=mlp", "duration=2steps", "seed=0,1", "logger=none", "hydra.sweep.dir=outputs/s")
    assert trainopt(*sweep).code == 0
    assert "is a sweep" in trainopt("resume", "outputs/s", "duration=5steps").err
    jobs = json.loads((tmp_path / "outputs/s/sweep.json").read_text())["jobs"]
    assert trainopt("resume", f"outputs/s/{jobs[0]['folder']}", "duration=5steps").code == 0
    result = trainopt("status", "outputs/s", "--json")
    table = {job["name"]: job for job in json.loads(result.out)}
    assert {job["state"] for job in table.values()} == {"done"}
    assert "duration=5steps" in table[jobs[0]["folder"]]["overrides"]
    assert "duration=2steps" in table[jobs[1]["folder"]]["overrides"]
    plan = json.loads((tmp_path / "outputs/s/sweep.json").read_text())["jobs"][0]
    assert plan["duration"] == "5steps"
    config = prepared("model=mlp", "duration=5steps", "seed=0", "logger=none")[0]
    assert plan["fingerprint"] == fingerprint(config)


def test_a_trial_of_a_search_stays_as_long_as_the_others(trained, tmp_path):
    folder = trained(*SHORT.split(), name="s/a")
    job = {"folder": "a", "overrides": [], "fingerprint": "", "search": {}}
    (folder.parent / "sweep.json").write_text(json.dumps({"jobs": [job]}))
    assert "is a trial of the search" in resumed(folder, "duration=3epochs")
    (tmp_path / "latest").symlink_to(folder)
    assert "is a trial of the search" in resumed(tmp_path / "latest", "duration=3epochs")


def test_the_plan_knows_a_job_that_is_resumed_by_a_link(trained, tmp_path):
    folder = trained(*SHORT.split(), name="s/a")
    job = {"folder": "a", "overrides": SHORT.split(), "fingerprint": ""}
    (folder.parent / "sweep.json").write_text(json.dumps({"jobs": [job]}))
    (tmp_path / "latest").symlink_to(folder)
    assert resumed(tmp_path / "latest", "duration=3epochs") == ""
    (planned,) = json.loads((folder.parent / "sweep.json").read_text())["jobs"]
    assert (planned["duration"], planned["fingerprint"]) == ("3epochs", summary(folder)["fingerprint"])


@pytest.mark.slow
def test_hydra_reads_what_the_plan_has_of_a_changed_job(trained):
    job = {"overrides": [*SHORT.split(), "++data.root=other"]}
    folder = trained(*SHORT.split())
    config, choices = read_config(folder)
    for overrides in (
        ["logger=[tensorboard,wandb]", "data.root=a, b=1"],
        ["logger.wandb.project=42", "logger.wandb.tags=['x,y',z]", "logger.wandb.notes='null'"],
        ["logger=[wandb,mlflow]"],  # W&B has its defaults again
        ["logger=none", "data.root='1e5'", "keep_checkpoints.last=3"],
    ):
        config, change = changed(folder, config, choices, overrides)
        job = changed_job(job, change)
        values = dict(leaves(prepared(*job["overrides"])[0]))
        assert values == dict(leaves(config)) | {"run.name": values["run.name"]}
    assert [text for text in job["overrides"] if text.startswith(("logger", "++data"))] == [
        "logger=[none]",
        '++data.root="1e5"',
    ]
