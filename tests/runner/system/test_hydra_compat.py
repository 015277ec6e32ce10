"""Hydra's private parts are used in one file, and are there in the version that is installed."""

import inspect
from importlib import import_module
from importlib.metadata import version

import pytest

from helpers import ROOT
from trainopt.runner.system.hydra_compat import numbered_from

FILE = "runner/system/hydra_compat.py"
KNOWN_TO_WORK = "1.3."
# what the file uses, with the arguments that it gives
USED = {
    "hydra._internal.utils:get_args_parser": (),
    "hydra._internal.utils:create_automatic_config_search_path": ("calling_file", "calling_module", "config_path"),
    "hydra._internal.utils:_run_hydra": ("args", "args_parser", "task_function", "config_path", "config_name"),
    "hydra._internal.hydra:Hydra.create_main_hydra2": ("task_name", "config_search_path"),
    "hydra._internal.hydra:Hydra.get_mode": ("config_name", "overrides"),
    "hydra._internal.hydra:Hydra.compose_config": ("config_name", "overrides", "run_mode", "with_log_configuration"),
    "hydra._internal.callbacks:Callbacks.on_run_start": ("config",),
    "hydra._internal.callbacks:Callbacks.on_run_end": ("config",),
    "hydra._internal.callbacks:Callbacks.on_multirun_start": ("config",),
    "hydra._internal.callbacks:Callbacks.on_multirun_end": ("config",),
    "hydra._internal.core_plugins.basic_sweeper:BasicSweeper.split_arguments": ("overrides", "max_batch_size"),
    "hydra.core.utils:run_job": ("task_function", "config", "job_dir_key", "job_subdir_key", "hydra_context"),
    "hydra.core.plugins:Plugins.is_in_toplevel_plugins_module": (),  # replaced by another of one argument
    "hydra.plugins.sweeper:Sweeper.validate_batch_is_legal": ("batch",),
    "hydra.core.plugins:Plugins.instantiate_sweeper": ("hydra_context", "task_function", "config"),
}


def test_the_version_is_known_to_work():
    installed = version("hydra-core")
    assert installed.startswith(KNOWN_TO_WORK), f"{FILE} was written for hydra-core {KNOWN_TO_WORK}x, not {installed}"


@pytest.mark.parametrize("name", USED)
def test_the_private_part_is_there_and_takes_these_arguments(name):
    module, _, path = name.partition(":")
    part = import_module(module)
    for step in path.split("."):
        assert hasattr(part, step), f"hydra-core {version('hydra-core')} has no {name}, which {FILE} uses"
        part = getattr(part, step)
    names = [argument for argument in inspect.signature(part).parameters if argument != "self"]
    in_order = tuple(names[: len(USED[name])])
    if name.endswith("instantiate_sweeper"):  # called by keywords
        in_order = tuple(argument for argument in USED[name] if argument in names)
    assert in_order == USED[name], f"hydra-core {version('hydra-core')}: {name} takes {names}; see {FILE}"


def test_plugins_are_found_by_the_names_of_their_classes():
    from hydra.core.plugins import Plugins

    known = Plugins.instance().class_name_to_class
    assert "hydra._internal.core_plugins.basic_sweeper.BasicSweeper" in known, f"see {FILE}"


def test_the_launcher_of_joblib_goes_on_with_the_numbers_of_jobs(caplog, monkeypatch):
    from hydra_plugins.hydra_joblib_launcher import _core

    monkeypatch.setattr(_core.log, "disabled", False)  # a run before disables loggers
    with caplog.at_level("INFO", _core.log.name):
        with numbered_from(7):
            _core.log.info("\t#0 : seed=1")
            _core.log.info("\t#12 : note='#3 : 100%'")
        _core.log.info("\t#0 : seed=1")
    assert caplog.messages == ["\t#7 : seed=1", "\t#19 : note='#3 : 100%'", "\t#0 : seed=1"]


def test_no_other_file_uses_private_parts_of_hydra():
    users = [path for path in (ROOT / "runner").rglob("*.py") if "hydra._internal" in path.read_text()]
    assert users == [ROOT / FILE]
