"""What was typed, without Hydra: overrides taken apart, and what names of other programs are here."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..system.errors import nearest
from ..system.flags import config_dirs
from .options import Vocabulary, default_choices, list_groups, shipped

# What is typed here for a key of these names; {} stands for the value. Text without "=" says what there is instead.
KEYS = {
    "optimizer.lr={}": "lr learning_rate base_lr initial_lr init_lr",
    "optimizer.momentum={}": "momentum",
    "optimizer.weight_decay={}": "weight_decay wd l2_penalty",
    "optimizer={}": "optim opt optimiser optimizer_name",
    "schedule={}": "scheduler lr_scheduler sched lr_schedule lr_scheduler_type lrs",
    "schedule.min_lr={}": "min_lr eta_min lr_min",
    "schedule.gamma={}": "gamma decay_rate lr_gamma",
    "schedule.warmup={}epochs": "warmup_epochs lr_warmup_epochs",
    "schedule.warmup={}steps": "warmup_steps warmup_iters num_warmup_steps lr_warmup_steps",
    "model={}": "arch architecture net network backbone model_name",
    "model.weights=pretrained": "pretrained",
    "model.weights={}": "checkpoint ckpt initial_checkpoint load_weights",
    "model.hidden=[{}]": "hidden_size hidden_sizes hidden_dim hidden_dims hidden_units",
    "model.dropout={}": "drop dropout_rate",
    "model.drop_path_rate={}": "drop_path stochastic_depth",
    "data={}": "dataset data_set dataset_name",
    "data.root={}": "data_dir data_root dataset_root",
    "data.limit={}": "subset max_samples max_train_samples limit_train_batches",
    "data.validation={}": "val_split validation_split val_fraction val_size validation_fraction",
    "data.size={}": "img_size image_size input_size resolution",
    "data.workers={}": "num_workers n_workers dataloader_num_workers",
    "augmentation={}": "aug augment transforms",
    "augmentation=randaugment": "aa auto_augment autoaugment rand_augment randaugment ra",
    "augmentation=trivialaugment": "trivial_augment trivialaugment ta_wide",
    "augmentation=augmix": "aug_mix augmix",
    "augmentation.flip={}": "hflip horizontal_flip hflip_prob",
    "batching.size={}": "batch_size bs batchsize train_batch_size per_device_train_batch_size",
    "augmentation.random_erasing={}": "reprob random_erase erasing",
    "augmentation.mixup={}": "mixup mixup_alpha",
    "augmentation.cutmix={}": "cutmix cutmix_alpha",
    "batch_norm=global": "sync_bn sync_batchnorm syncbn sync_batch_norm",
    "gradient.clip_norm={}": "grad_clip gradient_clip_val clip_grad clip_grad_norm max_grad_norm clipnorm clip",
    "gradient.clip_value={}": "clip_value clipvalue grad_clip_value",
    "gradient.accumulation_steps={}": "accumulate_grad_batches gradient_accumulation_steps grad_accum grad_accum_steps",
    "averaging=ema": "ema model_ema use_ema",
    "averaging.decay={}": "ema_decay model_ema_decay",
    "averaging.warmup={}": "ema_warmup model_ema_warmup",
    "averaging=swa": "swa use_swa stochastic_weight_avg",
    "averaging.start={}": "swa_start swa_epoch_start",
    "averaging.batch_norm_batches={}": "update_bn bn_batches",
    "parameter_groups.no_decay=[bias,norm]": "no_decay no_weight_decay norm_weight_decay filter_bias_and_bn",
    "parameter_groups.layer_decay={}": "layer_decay layer_wise_decay llrd",
    "duration={}epochs": "epochs max_epochs num_epochs n_epochs nb_epochs num_train_epochs epoch",
    "duration={}steps": "max_steps num_steps n_steps steps iterations max_iter num_iterations train_steps",
    "duration={}s": "max_seconds max_time_seconds max_runtime_s",
    "duration={}min": "max_minutes max_time time_limit",
    "duration={}h": "max_hours time_budget_hours",
    "evaluate_every={}epochs": "check_val_every_n_epoch eval_every validate_every",
    "evaluate_every={}steps": "eval_steps val_check_interval eval_interval",
    "checkpoint_every={}epochs": "save_every save_every_n_epochs",
    "checkpoint_every={}steps": "save_steps",
    "keep_checkpoints.last={}": "save_top_k save_total_limit checkpoint_hist",
    "log_every={}steps": "log_interval log_every_n_steps logging_steps print_freq",
    "objective={}": "loss criterion loss_fn loss_function objective_function",
    "metric={}": "metrics eval_metrics",
    "selection_metric={}": "monitor eval_metric metric_for_best_model checkpoint_monitor",
    "objective.label_smoothing={}": "label_smoothing smoothing",
    "early_stopping.patience={}": "patience early_stop early_stopping_patience",
    "precision=bf16": "amp bf16 mixed_precision",
    "precision=fp16": "fp16 half float16",
    "compile=true": "torchcompile torch_compile",
    "compile={}": "torch_compile_mode compile_mode",
    "cuda_graph=true": "cudagraph cudagraphs cuda_graphs",
    "logger={}": "report_to loggers tracker log_with",
    "logger=wandb": "wandb use_wandb log_wandb log_to_wandb",
    "logger.wandb.project={}": "project project_name wandb_project",
    "logger.wandb.entity={}": "wandb_entity entity",
    "logger.wandb.mode={}": "wandb_mode",
    "logger.wandb.mode=offline": "offline wandb_offline",
    "logger.mlflow.tracking_uri={}": "tracking_uri mlflow_tracking_uri",
    "device=cuda": "gpu gpus cuda accelerator use_gpu use_cuda",
    "seed={}": "random_state random_seed manual_seed",
    "run.name={}": "name exp_name experiment_name run_name",
    "hydra.run.dir={}": "output_dir out_dir outdir save_dir default_root_dir logdir log_dir",
    "debug=quick": "fast_dev_run dry_run smoke",
    "debug=overfit": "overfit_batches overfit",
    "hydra.launcher.n_jobs={}": "n_jobs jobs",
    "devices_per_job={}": "gpus_per_job gpus_per_trial num_gpus devices_per_trial",
    "hydra.sweeper.n_trials={}": "n_trials num_trials",
    "hydra/sweeper={}": "sweeper",
    "hydra/launcher={}": "launcher",
    "a run is continued by its command, or trainopt resume RUN": "ckpt_path resume resume_from resume_from_checkpoint",
    "torchrun starts a run on several devices, see docs/many_devices.md": "devices strategy num_nodes world_size",
    "a network gets the numbers of classes and of channels from the data": "num_classes in_chans in_channels",
    "data.workers is the number of processes that read": "pin_memory persistent_workers prefetch_factor",
    "trainopt submit -m … runs a sweep on a cluster": "cluster slurm ray partition",
    "early_stopping, keep_checkpoints, averaging, regularizer and probe do what callbacks do": "callbacks callback",
    "what a trainer is told are keys of their own, as duration, precision and device": "trainer",
}
NAMES_OF_CHOICES = ("name", "type", "_target_")  # keys that choose what their section is, in other programs
WHOLE_GROUPS = ("cluster", "slurm", "ray")  # of keys that no run has, whatever stands behind the dot
KEY_OF_NAME = {name: key for key, names in KEYS.items() for name in names.split()}

COMMANDS = {
    "a run needs no command; leave it out": "train fit run start main trainer learn",
    "write trainopt evaluate RUN": "test eval validate predict inference",
    "write trainopt -m key=a,b": "sweep multirun tune search grid",
    "write trainopt status SWEEP": "ls list show progress",
    "write trainopt resume RUN": "continue restart",
    "write trainopt compare RUN …": "report table plot diff",
    "write trainopt sync RUN --to wandb": "push upload",
    "write trainopt export RUN --out DIR": "save release",
    "write trainopt submit -m key=a,b": "sbatch slurm launch",
    "write trainopt submit --to ray -m key=a,b": "ray",
    "write torchrun --nproc-per-node=N -m trainopt.runner key=value": "torchrun distributed ddp accelerate",
    "write trainopt cancel SWEEP": "scancel stop kill",
    "write trainopt --help": "help usage",
    "write trainopt --version": "version",
}
COMMAND_OF_NAME = {name: text for text, names in COMMANDS.items() for name in names.split()}

# Options, by group, and their names in other programs: those of torch, timm, Keras, Lightning.
OPTIONS = {
    "optimizer": {
        "sgd": "momentum nesterov",
        "adamw": "fusedadamw adamw_torch",
        "muon": "muon_optimizer",
        "ehnewton": "newton_cg hessian_free gauss_newton",
        "ehnewton_auto": "kfac k_fac natural_gradient",
    },
    "schedule": {
        "constant": "none null fixed",
        "cosine": "cosine_annealing cosineannealinglr cosine_with_warmup cosine_decay cosine_annealing_lr",
        "cosine_restarts": "cosineannealingwarmrestarts cosine_annealing_warm_restarts cosine_warm_restarts sgdr",
        "cyclic": "cycliclr cyclic_lr clr triangular",
        "exponential": "exponentiallr exponential_lr exponential_decay",
        "linear": "linearlr linear_lr linear_with_warmup",
        "multistep": "multisteplr multi_step_lr multi_step step steplr step_lr",
        "one_cycle": "onecyclelr onecycle one_cycle_lr 1cycle",
        "plateau": "reducelronplateau reduce_lr_on_plateau reduce_on_plateau",
        "polynomial": "polynomiallr poly polynomial_lr polynomial_decay",
        "range_test": "lr_finder lr_find",
        "warmup_stable_decay": "wsd trapezoidal",
    },
    "averaging": {"ema": "exponential model_ema", "swa": "stochastic_weight_averaging"},
    "objective": {
        "cross_entropy": "ce crossentropy crossentropyloss nll softmax categorical_crossentropy",
        "mse": "l2 mean_squared_error mseloss squared",
        "bce": "binary_cross_entropy bceloss bcewithlogitsloss bce_with_logits binary_crossentropy",
    },
    "metric": {
        "top1": "accuracy acc acc1 top_1 accuracy_top1",
        "top5": "acc5 top_5 accuracy_top5",
        "calibration_error": "ece",
        "confusion_matrix": "confusion confmat",
        "per_class_accuracy": "class_accuracy accuracy_per_class",
        "rmse": "root_mean_squared_error",
    },
    "augmentation": {"randaugment": "rand_augment ra", "trivialaugment": "trivial_augment ta ta_wide"},
    "regularizer": {"l2": "weight_decay ridge tikhonov"},
    "logger": {
        "wandb": "weights_and_biases wandblogger wandb_logger",
        "tensorboard": "tb tensorboardlogger tensorboard_logger",
        "none": "off",
    },
    "data": {
        "imagefolder": "image_folder folder custom",
        "cifar10": "cifar_10",
        "fashion_mnist": "fashionmnist fmnist",
    },
}

# What there is besides the options of a group.
OTHER_OPTIONS = {
    "model": "any of timm's is model=timm model.name=NAME",
    "optimizer": "any of timm's is optimizer=timm optimizer.name=NAME",
    "schedule": "any of torch's is schedule=torch schedule.scheduler._target_=torch.optim.lr_scheduler.CLASS",
    "metric": "any other is +metric.NAME._target_=torchmetrics.CLASS",
    "logger": (
        "every run, with any logger and with none, writes its metrics to RUN/metrics.jsonl; for a CSV file of them:"
        ' pandas.read_json("RUN/metrics.jsonl", lines=True).to_csv("records.csv")'
    ),
}

NO_CLASSES = ("experiment", "debug", "recipe")  # groups whose options name no class

# What a class or function of the user's own is, by group.
OWN = {
    "data": "a function that returns {train: Dataset, test: Dataset}, or arrays (docs/data.md)",
    "model": "a class or function that returns an nn.Module; it may take num_classes, in_channels and input_shape",
    "objective": "a function of outputs and targets, or a class of such: the batch's mean, or the loss of each sample",
    "metric": "a class with reset(), update(outputs, targets) and compute()",
    "optimizer": "a torch.optim.Optimizer",
    "schedule": "a class with step(), state_dict() and load_state_dict(); it may take the optimizer",
    "logger": "a class with row(record)",
}

# The package that brings an option of one of Hydra's groups.
PLUGINS = {
    "hydra/launcher=submitit_local": "hydra-submitit-launcher",
    "hydra/launcher=submitit_slurm": "hydra-submitit-launcher",
    "hydra/launcher=ray": "hydra-ray-launcher",
    "hydra/launcher=ray_aws": "hydra-ray-launcher",
    "hydra/launcher=rq": "hydra-rq-launcher",
    "hydra/sweeper=ax": "hydra-ax-sweeper",
    "hydra/sweeper=nevergrad": "hydra-nevergrad-sweeper",
    "hydra/job_logging=colorlog": "hydra-colorlog",
    "hydra/hydra_logging=colorlog": "hydra-colorlog",
}


def is_dotted(name: str) -> bool:
    """Returns whether a name is that of something in a module, as mine.focal."""
    return re.fullmatch(r"[^\W\d]\w*(\.\w+)+", name) is not None


def own_target(group: str, target: str) -> str:
    """Returns what is typed for a class or function of one's own.

    >>> own_target("objective", "mine.focal"), own_target("metric", "mine.Precision")
    ('objective._target_=mine.focal', '+metric.NAME._target_=mine.Precision')
    """
    return f"+{group}.NAME._target_={target}" if group in list_groups() else f"{group}._target_={target}"


def split_override(override: str) -> tuple[str, str, str]:
    """Returns (sign, key, value) of an override.

    >>> split_override("++optimizer.lr=0.1")
    ('++', 'optimizer.lr', '0.1')
    """
    key, _, value = override.partition("=")
    bare = key.lstrip("+~")
    return key[: len(key) - len(bare)], bare, value


def chosen(overrides: list[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the option of each group that a command line leads to, experiments left aside."""
    choices = default_choices()
    for override in overrides:
        _, key, value = split_override(override)
        if key in vocabulary.groups or key.startswith("hydra/"):
            options = value.strip("[]").split(",")
            choices[key] = options if value.startswith("[") else options[0]
    return choices


def typed_overrides(arguments: list[str]) -> list[str]:
    """Returns the arguments that are overrides, as in `optimizer.lr=0.1`."""
    return [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]


def config_folders(arguments: list[str]) -> list[Path]:
    """Returns the folders that --config-dir names; without those that there are not."""
    return [Path(folder) for folder in config_dirs(arguments) if Path(folder).is_dir()]


def hint(key: str, value: str = "VALUE", known: Sequence[str] | None = None) -> str | None:
    """Returns what is typed here for a key that other programs have; None where the key is unknown there, too.

    Args:
        key: as typed.
        value: as typed.
        known: the keys that the section of the key has, with a plus where they are typed with one; None: any.

    >>> hint("trainer.max_epochs", "3"), hint("batch-size")
    ('; did you mean duration=3epochs?', '; did you mean batching.size=VALUE?')
    >>> hint("resume_from"), hint("nonsense")
    ('; a run is continued by its command, or trainopt resume RUN', None)
    >>> hint("loss", "mine.focal")
    '; did you mean objective._target_=mine.focal?'
    >>> hint("evaluation_sets.fog.path", "fog.npz")
    '; give +evaluation_sets.fog.path=fog.npz'
    """
    if key.startswith("evaluation_sets."):  # names that the user gives
        return f"; give +{key}={value}"
    section, _, name = key.rpartition(".")
    if section and (section.partition(".")[0] in WHOLE_GROUPS or name in NAMES_OF_CHOICES):
        name = section  # as lr_scheduler.name
    here = KEY_OF_NAME.get(name.partition(".")[0].lower().replace("-", "_"))
    if here is None:
        return None
    right = here.partition("=")[0]
    if known is not None and f"+{right}" in known:
        here = f"+{here}"
    elif right == key or (known is not None and right.rpartition(".")[0] == section and right not in known):
        return None  # a class of the user's does not take it
    group = here.removesuffix("={}")
    has_classes = group in default_choices() and group != "model"  # networks of timm have dots in their names
    if has_classes and is_dotted(value):
        return f"; did you mean {own_target(group, value)}?"
    if "{}" in here.rstrip("{}") and not value.replace(".", "").isdigit():  # a unit follows
        value = "VALUE"
    return f"; did you mean {here.format(value or 'VALUE')}?" if "=" in here else f"; {here}"


def option_of_name(group: str, name: str, options: Sequence[str]) -> str | None:
    """Returns the option of a group that is written in another way here, or that other programs call so; else None.

    >>> option_of_name("schedule", "CosineAnnealingLR", ["cosine"]), option_of_name("schedule", "nonsense", ["cosine"])
    ('cosine', None)
    >>> option_of_name("data", "FashionMNIST", ["mnist", "fashion_mnist"])
    'fashion_mnist'
    """
    usual = name.lower().replace("-", "_")
    spellings = {option.replace("_", ""): option for option in options}
    others = (option for option, names in OPTIONS.get(group, {}).items() if usual in names.split())
    return spellings.get(usual.replace("_", "")) or next((option for option in others if option in options), None)


def unknown_command(word: str, commands: Iterable[str]) -> str:
    """Returns the line about a first word that is no command.

    >>> unknown_command("train", ["resume"])
    'train: no such command; a run needs no command; leave it out'
    >>> unknown_command("optimizer.lr", ["resume"]), unknown_command("lr", ["resume"])
    ('optimizer.lr: no such command; write optimizer.lr=VALUE', 'lr: no such command; did you mean optimizer.lr=VALUE?')
    """
    text = COMMAND_OF_NAME.get(word)
    if "." in word and word.partition(".")[0] in {**default_choices(), **shipped("config.yaml")}:
        text = f"write {word}=VALUE"
    all_else = f"; commands are {', '.join(commands)}, all else is key=value"
    return f"{word}: no such command{f'; {text}' if text else nearest(word, commands) or hint(word) or all_else}"


def no_override(word: str, words: Iterable[str]) -> str:
    """Returns the line about a word behind the first one that is neither a flag nor key=value.

    Args:
        word: as typed.
        words: the keys and groups of the configuration.

    >>> no_override("train", []), no_override("modle", ["model"])
    ('train: is no key=value; a run needs no command; leave it out', 'modle: is no key=value; did you mean model?')
    >>> no_override("optimizer.lr", ["optimizer.lr"])
    'optimizer.lr: is no key=value; write optimizer.lr=VALUE, without blanks'
    """
    text = f"write {word}=VALUE, without blanks" if word in words else COMMAND_OF_NAME.get(word)
    return f"{word or repr(word)}: is no key=value{f'; {text}' if text else nearest(word, words)}"


def unknown_flag(flag: str, value: str, keys: Iterable[str]) -> str:
    """Returns the line about a flag that there is not: what is no flag here is a key.

    Args:
        flag: as typed, as in `--lr`.
        value: of the flag; empty where there is none.
        keys: the keys and groups of the configuration.

    >>> unknown_flag("--lr", "0.1", []), unknown_flag("--seed", "3", ["seed"])
    ('--lr: no such flag; did you mean optimizer.lr=0.1?', '--seed: no such flag; write seed=3')
    """
    name = flag.lstrip("-").replace("-", "_")
    if name in keys:
        return f"{flag}: no such flag; write {name}={value or 'VALUE'}"
    return f"{flag}: no such flag{hint(name, value) or nearest(name, keys) or '; trainopt --help shows all'}"
