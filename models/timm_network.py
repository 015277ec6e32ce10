"""Networks of timm by name."""

import os
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import nn

from .weights import WeightsError


def timm_network(
    in_channels: int,
    num_classes: int,
    name: str,
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
    auxiliary: bool = False,
    pretrained: bool = False,
) -> nn.Module:
    """Returns a network of timm, (B, in_channels, H, W) -> (B, num_classes).

    Args:
        in_channels: channels of the images; pretrained weights of the first layer are adapted by timm.
        num_classes: number of outputs.
        name: a name of `timm.list_models()`, with or without timm's tag of the pretrained weights.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth; None where the network knows none.
        auxiliary: train its auxiliary classifier too: outputs are then (logits, auxiliary logits) while training.
        pretrained: load timm's pretrained weights, from timm's cache or the network.
    """
    if pretrained and _hub_is_out_of_reach():
        # only the cache is read, without retries; set here, as the hub is needed for pretrained weights only
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import timm

    known = timm.is_model(name)
    if not known:
        from difflib import get_close_matches

        close = get_close_matches(name, timm.list_models(), n=1)
        raise ValueError(f"name={name}: timm has no such network" + (f"; did you mean {close[0]}?" if close else ""))
    options: dict[str, Any] = {"drop_rate": drop_rate}
    if drop_path_rate is not None:
        options["drop_path_rate"] = drop_path_rate
    if auxiliary:
        options["aux_logits"] = True
    own_classes = getattr(timm.get_pretrained_cfg(name), "num_classes", None)
    is_adapted = pretrained and auxiliary and own_classes not in (None, num_classes)
    if not is_adapted:  # of an auxiliary classifier timm would load the weights for its own classes
        options["num_classes"] = num_classes
    try:
        network: Any = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)
    except TypeError as error:
        raise ValueError(f"{name} does not take these options ({error})") from error
    except Exception as error:
        if not pretrained or isinstance(error, ValueError):
            raise
        raise WeightsError(f"{name}: {_how_to_get(name, error)}") from error
    if is_adapted:
        network.reset_classifier(num_classes)
    if getattr(network, "aux_logits", None) is False:
        network.parts_left_out = ("AuxLogits",)  # files of InceptionV3's weights hold them
    return network


def _hub_is_out_of_reach() -> bool:
    """Returns whether the address of Hugging Face's hub cannot be found; behind a proxy that says nothing."""
    if getproxies():
        return False
    try:
        socket.getaddrinfo(urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname, 443)
    except OSError:
        return True
    return False


def _how_to_get(name: str, error: Exception) -> str:
    import timm

    config = timm.get_pretrained_cfg(name)
    place = getattr(config, "url", "") or f"model.safetensors of {getattr(config, 'hf_hub_id', name)} (Hugging Face)"
    text = " ".join(str(error).split())[:120]
    return (
        f"pretrained weights could not be fetched ({type(error).__name__}: {text});"
        f" fetch {place} on a machine that can and give model.weights=FILE"
    )
