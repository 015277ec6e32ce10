"""Classes of one's own: misspelt arguments, and why one cannot be imported, each in one line."""

import pytest

MINE = """
import torch


class Mine(torch.optim.SGD):
    def __init__(self, params, lr, momentum, beta=0.9):
        super().__init__(params, lr, momentum)
"""


@pytest.fixture
def own_module(tmp_path):
    (tmp_path / "own_module.py").write_text(MINE)
    (tmp_path / "conf/optimizer").mkdir(parents=True)
    (tmp_path / "conf/optimizer/lean.yaml").write_text("_target_: own_module.Mine\nlr: 0.1\n")
    (tmp_path / "conf/optimizer/full.yaml").write_text("_target_: own_module.Mine\nlr: 0.1\nmomentum: 0\nbeta: 0\n")


TYPED = "optimizer._target_=own_module.Mine optimizer.lr=0.1 optimizer.momentum=0.9"


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("typed", "right"),
    [
        (f"{TYPED} +optimizer.betta=0.9", "unknown key; did you mean +optimizer.beta?"),
        (f"{TYPED} optimizer.betta=0.9", "own_module.Mine takes no betta; did you mean +optimizer.beta?"),
        (f"{TYPED} optimizer.beta=0.5", "for a class of your own write +optimizer.beta=0.5"),
        (f"{TYPED} +optimizer.xyz=1", "unknown key; known are optimizer.lr, optimizer.momentum, +optimizer.beta"),
        ("optimizer._target_=own_module.Mine", "own_module.Mine needs it; give it as optimizer.lr=VALUE"),
        ("optimizer=lean", "own_module.Mine needs it; give it as +optimizer.momentum=VALUE"),
        ("optimizer=lean optimizer.betta=0.9", "own_module.Mine takes no betta; did you mean +optimizer.beta?"),
        ("optimizer=lean optimizer.beta=0.9", "is no key of optimizer=lean; for a class of your own write +opt"),
        ("optimizer=lean +optimizer.momentumm=1", "unknown key; did you mean +optimizer.momentum?"),
        ("optimizer=full +optimizer.betta=0.9", "unknown key; did you mean optimizer.beta?"),
        ("optimizer=full optimizer.betta=0.9", "own_module.Mine takes no betta; did you mean optimizer.beta?"),
    ],
)
def test_a_misspelt_argument_of_ones_own_class_is_given_as_it_is_typed(trainopt, typed, right):
    result = trainopt("--config-dir", "conf", "model=mlp", *typed.split())
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert right in result.err


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize("command", ["", "-m seed=1,2"])
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("own_module.Nope", "own_module (own_module.py) has no Nope; it has Mine"),
        ("own_module.mine", "own_module (own_module.py) has no mine; did you mean own_module.Mine?"),
        ("own_modul.Mine", "nor among the installed packages; did you mean own_module?"),
        ("zzz.Mine", "nor among the installed packages; zzz.py belongs into {folder} or a folder of PYTHONPATH"),
        ("raises.Mine", "its import raises RuntimeError: no (raises.py, line 2)"),
        ("broken.Mine", "its import raises SyntaxError: invalid syntax (broken.py, line 1)"),
        ("lacks.Mine", "its import raises ModuleNotFoundError: No module named 'nowhere' (lacks.py, line 1)"),
        ("own_module.Mine.nope", "type object 'Mine' has no attribute 'nope'"),
    ],
)
def test_why_ones_own_class_cannot_be_imported(trainopt, tmp_path, command, target, reason):
    """A sweep is refused as a run is, before its first job."""
    (tmp_path / "raises.py").write_text("import torch\nraise RuntimeError('no')\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "lacks.py").write_text("import nowhere\n")
    result = trainopt(*command.split(), "model=mlp", f"optimizer._target_={target}")
    line = f"trainopt: optimizer._target_={target}: cannot be imported; "
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(line)
    assert result.err.endswith(reason.format(folder=tmp_path) + "\n")
    assert not (tmp_path / "outputs").exists()


def test_a_module_in_place_of_a_class_is_said_to_be_one(trainopt, own_module):
    err = trainopt("optimizer._target_=own_module").err
    assert "own_module: is no class or function; it is a module, which has own_module.Mine\n" in err


@pytest.mark.slow
def test_each_job_of_a_sweep_imports_ones_own_class_after_its_seed_was_set(trainopt, tmp_path):
    """What a module draws is then a function of the seed. A sweep that is done imports nothing."""
    module = tmp_path / "own_module.py"
    module.write_text(MINE + "with open('seeds', 'a') as file:\n    print(torch.initial_seed(), file=file)\n")
    sweep = ("-m", "seed=5,6", "model=mlp", "duration=1steps", "logger=none", *TYPED.split())
    assert trainopt(*sweep).code == 0
    assert (tmp_path / "seeds").read_text().split()[1:] == ["5", "6"]
    module.unlink()
    assert trainopt(*sweep).code == 0
    assert "there is no module own_module" in trainopt(*sweep, "run.name=new${seed}").err
