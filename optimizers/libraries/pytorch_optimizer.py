"""The optimizers of pytorch_optimizer, by name."""

import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from .groups import as_groups, split_hidden
from .options import argument_names, check_arguments, check_name, check_required, with_tuples
from .trial import tried

INSTALL = "pytorch_optimizer is not installed; pip install 'trainopt[optimizers]'"
WRAPPERS = ("SAM", "LookSAM", "FriendlySAM", "WSAM", "Lookahead", "OrthoGrad", "TRAC")  # around a base_optimizer
UNUSABLE = {  # classes that a run cannot use, with the reason
    "gsam": "its closure returns outputs and loss, and it needs a scheduler of rho; sam, looksam and wsam have neither",
    "pcgrad": "it combines the gradients of several losses, and a run has one",
}


def pytorch_optimizer(
    params: Iterable[Any],
    network: nn.Module,
    name: str,
    lr: float | None = None,
    weight_decay: float | None = None,
    base_optimizer: str | None = None,
    **arguments: Any,
) -> Any:
    """Returns an optimizer of pytorch_optimizer, as its class makes it of parameters or groups of them.

    Optimizers of the Muon family get the network's hidden weights, AdamW the classifier and all others, as
    `prepare_muon_parameters` arranges it.

    Args:
        params: parameters or groups of them.
        network: the network that they are of.
        name: one of pytorch_optimizer.get_supported_optimizers(), or of WRAPPERS.
        lr: learning rate; None: the default of the optimizer's class.
        weight_decay: None: the default of the optimizer's class.
        base_optimizer: the name of the optimizer that a wrapper is around, which gets what the wrapper does not take.
        arguments: of the optimizer's class.

    Raises:
        ValueError: the library is missing, there is no such optimizer or argument, or it does not pass its trial.
    """
    try:
        import pytorch_optimizer as library
    except ImportError as error:
        raise ValueError(INSTALL) from error
    cls = find_class("name", name, library)
    numbers = {"lr": lr, "weight_decay": weight_decay}
    options = arguments | {key: value for key, value in numbers.items() if value is not None}
    base = None if base_optimizer is None else find_class("base_optimizer", base_optimizer, library)
    check_options(cls, base, options)
    groups = as_groups(params)
    subject: Any = network if argument_names(cls)[0] == "model" else groups
    try:
        check_required(options, base or cls)
        if subject is network and any(len(group) > 1 for group in groups):
            raise ValueError("takes the whole network, and no parameter_groups; leave these out")
        if "muon" in cls.__module__:
            subject = split_hidden(groups, network, hidden={"use_muon": True}, others={"use_muon": False})
        with warnings.catch_warnings(action="ignore"):
            return tried(creator(cls, base, {key: with_tuples(value) for key, value in options.items()}), subject)
    except ValueError as error:
        raise ValueError(f"name={name}: {error}") from error


def find_class(key: str, name: str, library: ModuleType) -> type[torch.optim.Optimizer]:
    """Returns the class of a name, which is the value of a key."""
    wrappers = {wrapper.lower(): wrapper for wrapper in WRAPPERS}
    if name.lower() in UNUSABLE:
        raise ValueError(f"{key}={name}: {UNUSABLE[name.lower()]}")
    check_name(key, name.lower(), [*library.get_supported_optimizers(), *wrappers], library.__name__)
    wrapper = wrappers.get(name.lower())
    return getattr(library, wrapper) if wrapper else library.load_optimizer(name)


def check_options(cls: type, base: type | None, options: dict[str, Any]) -> None:
    """Raises ValueError if an optimizer does not take an argument, or lacks the optimizer that it is around.

    Args:
        cls: its class.
        base: the class of the optimizer within it.
        options: arguments of either.
    """
    first, *names = argument_names(cls)
    if base is None:
        if cls.__name__ in WRAPPERS:
            raise ValueError("base_optimizer=null: is missing; give it as optimizer.base_optimizer=NAME")
        check_arguments(options, names, cls.__name__)
    elif "base_optimizer" not in names and first != "optimizer":
        raise ValueError(f"base_optimizer={base.__name__.lower()}: {cls.__name__} is around no other; leave it out")
    else:
        check_arguments(options, [*names, *argument_names(base)[1:]], f"{cls.__name__} of {base.__name__}")


def creator(cls: type, base: type | None, options: dict[str, Any]) -> Callable[[Any], torch.optim.Optimizer]:
    """Returns what creates an optimizer of a class for a subject, around one of the class `base`."""
    if base is None:
        return lambda subject: cls(subject, **options)
    names = argument_names(cls)
    wrapping = {key: value for key, value in options.items() if key in names}
    others = {key: value for key, value in options.items() if key not in names}
    if names[0] == "optimizer":
        return lambda subject: cls(base(subject, **others), **wrapping)
    if names[:2] == ["model", "params"]:
        return lambda subject: cls(subject, subject.parameters(), base_optimizer=base, **wrapping, **others)
    return lambda subject: cls(subject, base_optimizer=base, **wrapping, **others)
