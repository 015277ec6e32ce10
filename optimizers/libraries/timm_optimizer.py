"""The optimizers of timm, by name."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn

from .groups import as_groups, split_hidden
from .options import argument_names, check_arguments, check_name, check_required, with_tuples
from .trial import tried


def timm_optimizer(
    params: Iterable[Any],
    network: nn.Module,
    name: str,
    lr: float | None = None,
    weight_decay: float = 0.0,
    **arguments: Any,
) -> Any:
    """Returns an optimizer of timm, as `timm.optim.create_optimizer_v2` makes it of parameters or groups of them.

    Muon gets the network's hidden weights, AdamW the classifier and all others, as its `fallback_list` arranges it.

    Args:
        params: parameters or groups of them.
        network: the network that they are of.
        name: one of timm.optim.list_optimizers(); with `lookahead_` before it, within Lookahead.
        lr: learning rate; None: the default of the optimizer's class.
        weight_decay: of the optimizer's class; here timm's factory has 0.
        arguments: of the optimizer's class.

    Raises:
        ValueError: there is no such optimizer or argument, or it does not pass its trial.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info, list_optimizers

    plain = name.lower().removeprefix("lookahead_")
    check_name("name", plain, [str(known) for known in list_optimizers()], "timm")
    info = get_optimizer_info(plain)
    try:
        cls: Any = get_optimizer_class(plain, bind_defaults=False)
    except (AssertionError, ImportError) as error:
        raise ValueError(f"name={name}: {error}") from error
    dropped = {"eps"} - {"eps" * info.has_eps} | {"betas"} - {"betas" * info.has_betas}  # by the factory, silently
    check_arguments(arguments, [key for key in argument_names(cls)[1:] if key not in dropped], cls.__name__)
    options = {key: with_tuples(value) for key, value in arguments.items()} | ({} if lr is None else {"lr": lr})
    groups = as_groups(params)
    try:
        check_required(options | (info.defaults or {}), cls)
        if "muon" in cls.__module__:
            groups = split_hidden(groups, network, hidden={}, others={"use_fallback": True})
        return tried(partial(create_optimizer_v2, opt=name, weight_decay=weight_decay, **options), groups)
    except ValueError as error:
        raise ValueError(f"name={name}: {error}") from error
