"""Bad input: one line that names the key and says what would be right, exit code 2, and nothing left behind."""

import re

import pytest

from helpers.cli import refusal
from trainopt.runner.cli import COMMANDS
from trainopt.runner.config.options import CONF, Vocabulary, default_choices
from trainopt.runner.config.overrides import KEYS, OPTIONS

CASES = [
    # unknown options, groups and keys
    ("model=resnet5", r"model=resnet5: no such option; did you mean resnet5\d\?"),
    ("optimizer=adma", "optimizer=adma: no such option; did you mean adam? there are adadelta, "),
    ("regularizer=[l3]", "regularizer=l3: no such option"),
    ("experiment=nothing", "experiment=nothing: no such option; there are "),
    ("modle=resnet20", "modle: unknown key; did you mean model?"),
    ("optimzer.lr=1", "optimzer.lr: unknown key; did you mean optimizer.lr?"),
    ("optimizer.lrr=1", "optimizer.lrr: unknown key; did you mean optimizer.lr?"),
    ("+nonsense=1", "nonsense: unknown key"),
    ("+optimizer.momentm=1", "optimizer.momentm: unknown key; did you mean optimizer.momentum?"),
    ("++run.nmae=x", "run.nmae: unknown key; did you mean run.name?"),
    ("optimizer.betas=[0,0]", "optimizer.betas: optimizer=sgd has no such key; it is one of adam"),
    ("optimizer=adam optimizer.nesterov=1", "optimizer.nesterov: optimizer=adam has no such key; it is one of"),
    ("+regularizer.l2.strength=1", "regularizer.l2._target_ is missing"),
    ("+regularizer.l2=5", "regularizer.l2._target_ is missing"),
    ("regularizer.l2.strength=1", "regularizer.l2.strength: l2 is not among the choices; give regularizer=[l2]"),
    ("regularizer=[l2] regularizer.l2.strenth=1", "unknown key; did you mean regularizer.l2.strength?"),
    ("~optimizer.foo", "~optimizer.foo: there is nothing to delete"),
    ("hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs: is a key of hydra/launcher=joblib, which makes several runs"),
    ("hydra.run.dri=x", "hydra.run.dri: Hydra has no such key"),
    # keys of other programs
    ("+batch_size=64", "batch_size: unknown key; did you mean batching.size=64?"),
    ("batch_size=64", "batch_size: unknown key; did you mean batching.size=64?"),
    ("epochs=3", "epochs: unknown key; did you mean duration=3epochs?"),
    ("trainer.max_epochs=3", "trainer.max_epochs: unknown key; did you mean duration=3epochs?"),
    ("lr=0.1", "lr: unknown key; did you mean optimizer.lr=0.1?"),
    ("model.lr=0.1", "model.lr: unknown key; did you mean optimizer.lr=0.1?"),
    ("+optimizer.learning_rate=1", "optimizer.learning_rate: unknown key; did you mean optimizer.lr=1?"),
    ("pretrained=true", "pretrained: unknown key; did you mean model.weights=pretrained?"),
    ("weight_decay=1e-4", "weight_decay: unknown key; did you mean optimizer.weight_decay=1e-4?"),
    ("grad_clip=1", "grad_clip: unknown key; "),
    ("ckpt_path=last.pt", "ckpt_path: unknown key; a run is continued by its command, or trainopt resume RUN"),
    ("resume=true", "resume: unknown key; a run is continued by its command, or trainopt resume RUN"),
    ("+trainer.max_epochs=3", "trainer.max_epochs: unknown key; did you mean duration=3epochs?"),
    ("trainer=gpu", "trainer: unknown key; what a trainer is told are keys of their own, as duration, precision and d"),
    ("callbacks=default", "callbacks: unknown key; early_stopping, keep_checkpoints, averaging, regularizer and probe"),
    ("schedule=cosine_annealing", "schedule=cosine_annealing: no such option; did you mean cosine? there are constant"),
    ("metric=[accuracy]", "metric=accuracy: no such option; did you mean top1? there are calibration_error, "),
    ("metric=[f1]", "; any other is +metric.NAME._target_=torchmetrics.CLASS"),
    ("optimizer=AdamW", "optimizer=AdamW: no such option; did you mean adamw? there are "),
    ("averaging=ema optimizer.no_decay=norm", "did you mean parameter_groups.no_decay=[bias,norm]?"),
    ("logger=wandb logger.mode=offline", "logger.mode: unknown key; did you mean logger.wandb.mode=offline?"),
    ("logger=wandb logger.wandb.offline=true", "did you mean logger.wandb.mode=offline?"),
    ("logger=csv", "logger=csv: no such option; there are mlflow, none, tensorboard, trackio, wandb; every run, "),
    ("logger=csv", 'pandas.read_json("RUN/metrics.jsonl", lines=True).to_csv("records.csv")'),
    ("lr_scheduler.name=cosine", "lr_scheduler.name: unknown key; did you mean schedule=cosine?"),
    ("optimizer.name=Adam", "optimizer.name: optimizer=sgd has no such key; did you mean optimizer=adam?"),
    ("data=FashionMNIST", "data=FashionMNIST: no such option; did you mean fashion_mnist? there are"),
    ("model=vit_base_patch16_224", "; any of timm's is model=timm model.name=NAME"),
    ("betas=[0.9,0.9]", "betas: unknown key; did you mean optimizer.betas? it is a key of optimizer=adam, adamw, "),
    ("dropout=0.5", "dropout: unknown key; did you mean model.dropout? it is a key of model=mlp, transformer"),
    ("nesterov=true", "nesterov: unknown key; did you mean optimizer.nesterov?"),
    ("save_top_k=3", "save_top_k: unknown key; did you mean keep_checkpoints.last=3?"),
    ("trainer.devices=2", "trainer.devices: unknown key; torchrun starts a run on several devices"),
    ("model=mlp train", "train: is no key=value; a run needs no command; leave it out"),
    ("model=mlp outputs/a", "outputs/a: is no key=value"),
    ("model=mlp optimizer.lr = 0.1", "optimizer.lr: is no key=value; write optimizer.lr=VALUE, without blanks"),
    # keys of a section, classes of the user
    ("gradient.clip=1", "gradient.clip: unknown key; did you mean gradient.clip_norm=1?"),
    ("gradient.clip_nrm=1", "gradient.clip_nrm: unknown key; did you mean gradient.clip_norm?"),
    (
        "early_stopping.xyz=1",
        "early_stopping.xyz: unknown key; known are early_stopping.min_delta, early_stopping.m",
    ),
    ("loss=a.loss", "loss: unknown key; did you mean objective._target_=a.loss?"),
    ("objective=a.loss", "no such option; a class or function of your own is objective._target_=a.loss"),
    ("metric=[top1,a.B]", "metric=a.B: no such option; a class or function of your own is +metric.NAME._target_=a.B; "),
    ("model=resnet50.a1_in1k", "; any of timm's is model=timm model.name=NAME"),
    ("experiment=a.b", "experiment=a.b: no such option; there are "),
    ("metric._target_=a.B", "metric._target_: one of your own has a name; write +metric.NAME._target_=a.B"),
    ("metric.m._target_=a.B", "metric.m._target_: there is no metric m; one of your own is +metric.m._target_=a.B"),
    ("data._target_=mine.nothing", "cannot be imported; there is no module mine, neither in the working directory nor"),
    ("optimizer._target_=torch.Tensor", "=torch.Tensor: does not say which arguments it takes; wrap it in a function"),
    ("evaluation_sets={1:{path:x}}", "evaluation_sets.1: the name must be letters, digits, _ and -, a letter first"),
    ("parameter_groups.rules=[{match:bias,lr:'1e-3'}]", "parameter_groups.rules: lr=1e-3: must be a number >= 0"),
    ("parameter_groups.rules=[{match:bias,lr:-1}]", "parameter_groups.rules: lr=-1: must be a number >= 0"),
    ("parameter_groups.no_decay=[foo]", "parameter_groups.no_decay=[foo]: must be a list of any of bias, norm"),
    # choices
    ("model=[mlp,resnet8]", "model=[mlp,resnet8]: takes the name of an option, as in model=resnet8"),
    ("optimizer=[sgd,adam]", "optimizer=[sgd,adam]: takes the name of an option, as in optimizer=sgd"),
    ("optimizer={a:1}", "optimizer={a:1}: takes the name of an option, as in optimizer=sgd"),
    ("regularizer=[l2,l2]", "regularizer=[l2,l2]: takes the name of an option, each once, as in regularizer=["),
    ("model=null", "model=null: takes the name of an option, as in model=resnet8"),
    ("model=3", "model=3: no such option; there are alexnet_cifar, "),
    ("+model=mlp", "+model=mlp: the group is already there; write model=mlp"),
    ("++model=mlp", "++model=mlp: the group is already there; write model=mlp"),
    ("~model=3", "~model=3: takes the name of an option, as in ~model"),
    ("~logger", "~logger: no option of logger is chosen by logger=[]"),
    ("seéd=3", "seéd: unknown key; did you mean seed?"),
    ("epochs=null", "epochs: unknown key; did you mean duration=VALUEepochs?"),
    ("=3", "=3: cannot be read as key=value"),
    ("~seed=5", "~seed=5: the key has another value"),
    ("+seed=5", "+seed=5: the key is already there; write seed=5"),
    ("hydra/launcher=submitit_slurm", "is not installed; pip install hydra-submitit-launcher"),
    ("hydra/sweeper=ax", "hydra/sweeper=ax: is not installed; pip install hydra-ax-sweeper"),
    ("hydra/launcher=ray", "hydra/launcher=ray: is not installed; pip install hydra-ray-launcher"),
    ("hydra/launcher=jobli", "hydra/launcher=jobli: no such option; did you mean joblib? there are basic, joblib"),
    # values
    ("optimizer.lr=abc", "optimizer.lr=abc: must be a number >= 0"),
    ("optimizer.lr=-1", "optimizer.lr=-1: must be a number >= 0"),
    ("optimizer.lr=nan", "optimizer.lr=nan: must be a number >= 0"),
    ("optimizer.lr=null", "optimizer.lr=null: must be a number >= 0"),
    ("optimizer.nesterov=1", "optimizer.nesterov=1: must be true or false"),
    ("seed=1.5", "seed=1.5: must be an integer in [0, 4294967296)"),
    ("seed=4294967296", "seed=4294967296: must be an integer in [0, 4294967296)"),
    ("precision=float16", "precision=float16: must be one of float32, tf32, bf16, fp16"),
    ("compile=reduce-overhead", "(its graphs write over the outputs that records take; cuda_graph=auto,"),
    ("batching.size=0", "batching.size=0: must be >= 1"),
    ("duration=10", "duration=10: must be a duration (a positive number with a unit, as in 20epochs"),
    ("duration=0epochs", "duration=0epochs: must be a duration"),
    ("duration=2.5steps", "duration=2.5steps: must be a duration"),
    ("data.validation=1", "data.validation=1: must be a number in [0, 1)"),
    ("recipe=x", "recipe=x: follows from experiment and optimizer; leave it out"),
    ("data.mean=[0,0]", "data.mean=[0, 0]: must have 1 numbers, one a channel, or one for all"),
    ("model.depth=21", "depth=21: must be 6n + 2"),
    ("optimizer=adam optimizer.betas=[0.9,1]", "optimizer.betas=[0.9,1]: must be a list of 2 number in [0, 1)"),
    ("regularizer=[l2] regularizer.l2.strength=-1", "regularizer.l2.strength=-1: must be >= 0"),
    ("objective=3", "objective=3: no such option; there are bce, cross_entropy, mse"),
    ("gradient=3", "gradient=3: is a section"),
    ("model=mlp model.hidden=[10000000000000]", "model: "),
    ("++augmentation.flip={a:1}", "augmentation.flip={'a': 1}: must be a number"),
    ("augmentation.flip={}", "augmentation.flip={}: must be a number"),
    ("optimizer.lr=99999999999999999999", "must be a number >= 0"),
    # missing values
    ("model=timm", "model.name is missing: give it as model.name=VALUE (any name of timm.list_models())"),
    ("data=arrays", "data.path is missing"),
    ("schedule=multistep", "schedule.milestones is missing"),
    ("duration=???", "duration is missing: it cannot be left out; give duration=VALUE"),
    ("~deterministic", "deterministic is missing: it cannot be left out"),
    ("~data.pad", "data.pad is missing: it cannot be left out"),
    ("~optimizer", "optimizer is missing: give optimizer=OPTION, one of adadelta, "),
    ("~optimizer._target_", "optimizer._target_ is missing"),
    # impossible combinations
    ("optimizer.nesterov=true optimizer.momentum=0", "Nesterov momentum requires a momentum"),
    ("data.size=40 model=timm model.name=dla46_c", "data.size=40: the network takes no such images ("),
    ("data.size=40 model=timm model.name=dla46_c", "); 64 pixels work"),
    ("data.pad=-1", "data.pad=-1: must be an integer >= 0"),
    ("data.pad=2 data=none model=function", "data.pad=2: is for images, and a test function has none"),
    ("data.channels=3 data=none model=function", "data.channels=3: is for images, and a test function has none"),
    ("augmentation.fill=white", "augmentation.fill=white: must be one of black, mean"),
    ("augmentation.cutout=9", "augmentation.cutout=9: images are 8x8 pixels; give at most 8"),
    ("augmentation.mixup=-1", "augmentation.mixup=-1: must be >= 0"),
    ("augmentation.crop_probability=2", "augmentation.crop_probability=2: must be in [0, 1]"),
    ("precision=tf32 device=cpu", "precision=tf32: is for CUDA GPUs"),
    ("precision=fp16 device=cpu", "precision=fp16: is for CUDA GPUs; on a CPU use precision=float32 or bf16"),
    ("batching.size=1436 data.size=4", "leave a batch of one image, which batch norm cannot train on"),
    ("batching.size=2000 batching.drop_last=true", "holds no batch at all"),
    # missing data, weights, devices, classes
    ("data=svhn data.root=nowhere", "svhn: not found in nowhere"),
    ("data=arrays data.path=nowhere.npz", "nowhere.npz: no such file"),
    ("model.weights=nowhere.pt", "model.weights: nowhere.pt: no such file"),
    ("model.weights=pretrained", "model.weights=pretrained: only networks of timm have pretrained weights"),
    ("device=tpu", "device=tpu: must be auto, cpu, cuda or cuda:N"),
    ("optimizer._target_=nowhere.Adam", "optimizer._target_=nowhere.Adam: cannot be imported"),
    ("batching._target_=abc", "batching._target_=abc: is no class or function"),
    ("optimzer._target_=mine.Mine", "optimzer._target_: unknown key; did you mean optimizer._target_?"),
    ("batching._target_=Mine", "a class or function is typed with its module, as mine.Mine of mine.py"),
    (
        "optimizer._target_=torch.optim.Adagrad optimizer.betas=1",
        "optimizer.betas: torch.optim.Adagrad takes no betas; its arguments are optimizer.lr, +optimizer.lr_decay, ",
    ),
    (
        "optimizer._target_=torch.optim.Adagrad +optimizer.momentum=0.9",
        "optimizer.momentum: torch.optim.Adagrad takes no momentum; its arguments are optimizer.lr, ",
    ),
    (
        "optimizer._target_=torch.optim.Adagrad optimizer.lr_decay=1",
        "for a class of your own write +optimizer.lr_decay=1",
    ),
    ("optimizer._target_=torch.optim.Adagrad +optimizer.betas=1", "optimizer.betas: unknown key; known are "),
    ("optimizer._target_=torch.optim.LBFGS +optimizer.wd=1", "optimizer.wd: unknown key; known are optimizer.lr, "),
    # what is no configuration at all
    ("optimizer=[sgd", "optimizer=[sgd: cannot be read as key=value"),
    ("data.root=${nothing.here}", "Interpolation key 'nothing.here' not found"),
]


@pytest.mark.parametrize(("command", "message"), CASES, ids=[c for c, _ in CASES])
def test_bad_input(monkeypatch, command, message):
    monkeypatch.delenv("TRAINOPT_DATA", raising=False)
    line = refusal(*command.split())
    assert message in line or re.search(message, line), line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("optimizer.lr=abc", "optimizer.lr=abc: must be a number >= 0"),
        ("seed=1,2", "seed=1,2: several values are a sweep: trainopt -m seed=1,2; a list is seed=[1,2]"),
        ("seed=range(1,3)", "seed=range(1,3): several values are a sweep: trainopt -m seed=range(1,3)"),
        ("-m hydra.run.dir=a,b", "hydra.run.dir=a,b: a sweep cannot change what Hydra itself is told"),
        ("hydra.run.dir=null", "hydra.run.dir=null: the key takes no such value"),
        ("comapre outputs", "comapre: no such command; did you mean compare?"),
        ("resum outputs", "resum: no such command; did you mean resume?"),
        ("--config-dir conf compare X", "compare: a command is the first word; write trainopt compare --config-dir "),
        ("train model=mlp", "train: no such command; a run needs no command; leave it out"),
        ("sweep seed=1,2", "sweep: no such command; write trainopt -m key=a,b"),
        ("nonsense", "nonsense: no such command; commands are resume, "),
        ("optimizer.lr 0.1", "optimizer.lr: no such command; write optimizer.lr=VALUE"),
        ("gradient.clip_norm 1", "gradient.clip_norm: no such command; write gradient.clip_norm=VALUE"),
        ("lr 0.1", "lr: no such command; did you mean optimizer.lr=VALUE?"),
        ("--lr 0.1", "--lr: no such flag; did you mean optimizer.lr=0.1?"),
        ("model=mlp --batch-size=64", "--batch-size: no such flag; did you mean batching.size=64?"),
        ("--seed 3", "--seed: no such flag; write seed=3"),
        ("--optimizer adam", "--optimizer: no such flag; write optimizer=adam"),
        ("--nonsense", "--nonsense: no such flag; trainopt --help shows all"),
        ("--config-dir", "--config-dir/-cd: expected one argument"),
        ("--help --config-dir", "--config-dir/-cd: expected one argument"),
        ("--config-dir nowhere seed=1", "nowhere: no such folder"),
        ("--config-dir nowhere --help", "nowhere: no such folder"),
        ("seed=a=b", "seed=a=b: cannot be read as key=value (mismatched input '=' expecting <EOF>)"),
        ("model=mlp --cfg job optimizer.lrr=3", "optimizer.lrr: unknown key; did you mean optimizer.lr?"),
        ("optimizer.momentum=2", "optimizer.momentum=2: must be a number in [0, 1)"),
        ("--cfg nonsense", "--cfg/-c: invalid choice: 'nonsense'"),
        ("--resolve", "--resolve: goes with --cfg job"),
        ("--cfg job --package nonsense", "--package nonsense: there is no such section"),
        ("--cfg job -m seed=1,2", "--cfg: shows the configuration of one run; leave -m out"),
        *(
            (f"{command} nowhere", "nowhere: no such ")
            for command in COMMANDS
            if command not in ("reproduce", "submit")
        ),
        *((f"{command} --nonsense .", f"{command}: --nonsense: no such flag") for command in COMMANDS),
        *((command, f"{command}: ") for command in COMMANDS),
        ("resume", "resume: missing: RUN; trainopt resume --help"),
        ("resume . .", "resume: .: is one argument too many"),
        ("resume .", ".: is no run's folder"),
        ("evaluate .", ".: is no run's folder"),
        ("compare --basline . .", "compare: --basline: no such flag; did you mean --baseline?"),
        ("compare --x y .", "compare: --x: invalid choice: 'y' (choose from"),
        ("compare . --against steps", "compare: --against: is now --x"),
        ("compare . --against=steps", "compare: --against: is now --x"),
        ("compare . --tuning nowhere", "nowhere: no such folder"),
        ("landscape --points x .", "landscape: --points: invalid int value: 'x'"),
        ("reproduce --config-dir nowhere all", "nowhere: no such folder"),
        ("submit seed=1,2", "submit: takes a sweep, as trainopt submit -m seed=1,2"),
        ("submit --to moon -m seed=1,2", "submit: --to moon: no such scheduler; there is slurm, ray"),
        ("submit -m seed=1,2 cluster.gpu=1", "cluster.gpu: no such key; did you mean cluster.gpus?"),
        (
            "submit -m seed=1,2 cluster.gpus=1,2",
            "cluster.gpus=1,2: is the same for all jobs of a sweep; give one value",
        ),
        ("submit -m seed=1,2 cluster.gpus=-1", "cluster.gpus=-1: must be an integer >= 0"),
        ("submit -m seed=1,2 cluster.time=4h", "cluster.time=4h: must be minutes, as 30, or as in 4:00:00"),
        ("submit -m seed=1,2 cluster.time=2", "cluster.time=2: must be longer than cluster.grace=120 (seconds)"),
        ("submit -m seed=1,2 +cluster.extra.array=4", "cluster.extra.array: it is set already; leave it out"),
        ("submit -m seed=1,2 +cluster.extra.mem=4G", "cluster.extra.mem: write cluster.memory"),
        (
            "submit -m seed=1,2 +cluster.extra.gres=gpu:2",
            "cluster.extra.gres=gpu:2: write cluster.gpus=2 in its place, or cluster.gpus=0",
        ),
        ("submit -m seed=1,2 cluster=slrum", "cluster=slrum: there is no cluster/slrum.yaml; did you mean slurm?"),
        ("cluster.gpus=1", "cluster.gpus: unknown key; trainopt submit -m … runs a sweep on a cluster"),
        ("cancel .", "cancel: .: was not submitted to a cluster"),
    ],
)
def test_the_command_line_ends_with_one_line(trainopt, tmp_path, command, message):
    result = trainopt(*command.split())
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("trainopt: ")
    assert result.err.count("\n") == 1, result.err
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there(trainopt, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = trainopt("device=cuda:1")
    assert result.code == 2
    assert "device=cuda:1: no CUDA GPU is visible here; use device=cpu or device=auto" in result.err


def test_a_name_that_is_missing_is_named_as_it_is_typed(trainopt):
    result = trainopt("model=mlp", "run.name=???")
    assert result.code == 2
    assert result.err == "trainopt: run.name is missing: it cannot be left out; give run.name=VALUE\n"


def test_a_module_that_is_a_program_is_named(trainopt, tmp_path):
    (tmp_path / "my_program.py").write_text("raise SystemExit(0)")
    result = trainopt("optimizer._target_=my_program.Mine")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "optimizer._target_=my_program.Mine: cannot be imported: importing it ends the program" in result.err


def test_a_folder_beside_a_misspelt_one_is_named(trainopt, tmp_path):
    (tmp_path / "outputs/mlp-digits-sgd,seed=1").mkdir(parents=True)
    result = trainopt("status", "outputs/mlp-digits-sdg,seed=1")
    assert result.err == (
        "trainopt: outputs/mlp-digits-sdg,seed=1: no such folder; did you mean outputs/mlp-digits-sgd,seed=1?\n"
    )


def test_every_key_of_another_program_leads_to_one_that_there_is():
    vocabulary = Vocabulary([CONF])
    options = {group: vocabulary.options(group) for group in vocabulary.groups}
    keys = {key for group in options for option in options[group] for key in vocabulary.keys({group: option})}
    for here, names in KEYS.items():
        key, _, value = here.partition("=")
        if value and not key.startswith("hydra"):
            assert key in {*options, *keys}, here
            assert key not in options or value == "{}" or value in options[key], here
        assert not set(names.split()) & {*options, *vocabulary.keys(default_choices())}, names
    for group, by_option in OPTIONS.items():
        assert set(by_option) <= set(options[group])
        assert not {name for names in by_option.values() for name in names.split()} & set(options[group])


def test_debug_shows_the_traceback(trainopt):
    result = trainopt("optimizer.lrr=1", "--debug")
    assert result.code == 2
    assert "Traceback" in result.err


def test_nothing_is_removed_that_was_there_before(trainopt, tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "mine.txt").write_text("kept")
    trainopt("optimizer.lr=-1")
    assert (tmp_path / "outputs" / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("swept", "message"),
    [
        ("optimizer.lr=0.1,-1,0.2", "optimizer.lr=-1: must be a number >= 0"),
        ("optimizer=sgd,adma", "optimizer=adma: no such option; did you mean adam?"),
        ("optimizer.lrr=1,2", "optimizer.lrr: unknown key; did you mean optimizer.lr?"),
        (
            "optimizer=sgd,adam optimizer._target_=torch.optim.NAdam",
            "optimizer._target_=torch.optim.NAdam: would take the",
        ),
        ("run.name=a seed=0,1", "two jobs of the sweep would share the folder a"),
        ("seed=0,1 hydra/launcher=joblib hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0: must be"),
    ],
)
def test_a_sweep_with_a_bad_job_is_refused_before_the_first_begins(trainopt, tmp_path, swept, message):
    result = trainopt("-m", "model=mlp", "duration=2steps", *swept.split(" "))
    assert result.code == 2
    assert result.err.startswith(f"trainopt: {message}")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()
