"""How methods are written and drawn: labels as papers write them, and one colour for one optimizer in every figure."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

from ..config.durations import SECONDS
from ..config.options import component_of, shipped
from ..system.errors import UserError, continued, nearest
from .style import COLOURS, LINE_STYLES, LINES, PALETTE

FILE = "labels.yaml"  # of conf/
GROUPS = ("optimizer", "model", "data")  # an option of these is written without the name of its group
LABELLED_KEYS = {"batching.size": "batch size", "batching.persistency": "batch reuse"}  # others by their last part
WORDS = {"lr": "learning rate", "betas": "β₁, β₂", "eps": "ε", "iter": "iterations", "cg": "CG", "l2": "L2"}  # of keys
DURATION = re.compile(rf"^([\d.]+)(steps|epochs|{'|'.join(SECONDS)})$")
Style = tuple[str, Any]  # a colour and a line style of matplotlib


def name_parts(name: str) -> dict[str, str]:
    """Returns the keys and values in the name of a method; what is no `key=value` is a key with an empty value.

    >>> name_parts("optimizer=adam optimizer.lr=0.01")
    {'optimizer': 'adam', 'optimizer.lr': '0.01'}
    """
    return {key: value for key, _, value in (part.partition("=") for part in name.split())}


def optimizer_of(name: str) -> str | None:
    """Returns the optimizer of a method: its option, or its class where that is of no option; None where none is typed.

    >>> optimizer_of("optimizer=timm optimizer.name=adopt model=mlp"), optimizer_of("optimizer.lr=0.1")
    ('timm adopt', None)
    >>> optimizer_of("optimizer._target_=torch.optim.NAdam"), optimizer_of("optimizer=their.Optimizer")
    ('nadam', 'their.Optimizer')
    """
    parts = name_parts(name)
    option = parts.get("optimizer._target_", parts.get("optimizer"))
    if option is None:
        return None
    if "." in option:
        return next((name for name, target in torch_targets().items() if target == option), option)
    return " ".join(filter(None, [option, parts.get("optimizer.name")]))


@cache
def torch_targets() -> dict[str, str]:
    """Returns the classes of torch behind our options, by the names of these."""
    targets = {name: shipped(f"optimizer/{name}.yaml").get("_target_", "") for name in shipped(FILE)["optimizer"]}
    return {name: target for name, target in targets.items() if target.startswith("torch.")}


def method_labels(names: Iterable[str], renames: Sequence[str] = ()) -> dict[str, str]:
    """Returns the label of each method, as papers write it, without what all of them have in common.

    Methods that would have the same label are written as they are typed.

    Args:
        names: of methods, as in `optimizer=adam optimizer.lr=0.01`.
        renames: `NAME:LABEL` each; NAME is a method's name, or keys and values in it, that the label stands for.

    Raises:
        UserError: no method has such a NAME, or two methods would have the same label.

    >>> method_labels(["optimizer=adam optimizer.lr=0.01", "optimizer=sgd optimizer.lr=0.1"], ["optimizer=adam:ours"])
    {'optimizer=adam optimizer.lr=0.01': 'ours, lr 0.01', 'optimizer=sgd optimizer.lr=0.1': 'SGD, lr 0.1'}
    """
    names = list(names)
    replaced = [parse_rename(text, names) for text in renames]
    common = set.intersection(*(set(name_parts(name).items()) for name in names)) if len(names) > 1 else set()
    labels = {name: label_of(name, replaced, dict(common)) for name in names}
    counts = Counter(labels.values())
    for name, label in labels.items():
        if counts[label] > 1 and any(pairs.items() <= name_parts(name).items() for pairs, _ in replaced):
            raise UserError(f"--rename: several methods would be called {label}: {'; '.join(names)}")
    return {name: label if counts[label] == 1 else name for name, label in labels.items()}


def parse_rename(text: str, names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Returns the keys with their values, and the label that takes their place, of `NAME:LABEL`."""
    name, colon, label = text.partition(":")
    if not (name.strip() and colon and label.strip()):
        raise UserError(f"--rename {text}: must be NAME:LABEL, as optimizer=adam:Adam")
    pairs = name_parts(name)
    if not any(pairs.items() <= name_parts(other).items() for other in names):
        known = list(dict.fromkeys(part for other in names for part in other.split()))
        problem = f"--rename {text}: no method has {name}{nearest(name, known)}"
        raise UserError(continued(problem, f"there are {'; '.join(names)}"))
    return pairs, label.strip()


def label_of(
    name: str, replaced: Sequence[tuple[Mapping[str, str], str]] = (), common: Mapping[str, str] | None = None
) -> str:
    """Returns the label of a method.

    Args:
        name: of the method.
        replaced: keys with their values, and the label that takes their place.
        common: what all methods have in common, which is not written unless it has such a label.

    >>> label_of("optimizer=ehnewton optimizer.lr=0.1 schedule=cosine batching.size=64")
    'EHNewton, lr 0.1, schedule cosine, batch size 64'
    >>> label_of("optimizer=timm optimizer.name=adopt"), label_of("optimizer=sgd optimizer._target_=mine.Lookahead")
    ('adopt', 'Lookahead')
    """
    parts = name_parts(name)
    texts: dict[str, str] = {key: part_label(key, value) for key, value in parts.items()}
    if name and "=" not in name:  # it says which keys its runs lack
        texts = dict.fromkeys(parts, "") | {next(iter(parts)): name}
    for key in parts:
        owner, _, last = key.rpartition(".")
        if last in ("name", "_target_") and owner in parts:  # it says more than the option
            texts[owner], texts[key] = texts[key], ""
    texts |= dict.fromkeys(common or {}, "")
    for pairs, label in replaced:
        if pairs.items() <= parts.items():
            texts |= dict.fromkeys(pairs, "") | {next(iter(pairs)): label}
    text = ", ".join(filter(None, texts.values()))
    return text or (label_of(name, replaced) if common else name)


def part_label(key: str, value: str) -> str:
    """Returns the label of a key with its value.

    >>> part_label("model", "resnet20"), part_label("optimizer.weight_decay", "0.01"), part_label("averaging", "ema")
    ('ResNet-20', 'weight decay 0.01', 'averaging ema')
    >>> part_label("probe.fisher._target_", "trainopt.runner.probes.FisherProbe"), part_label("duration", "90steps")
    ('probe fisher', 'duration 90 steps')
    """
    if not value:
        return key
    owner, _, last = key.rpartition(".")
    if key in GROUPS:
        return str(shipped(FILE)[key].get(value, {}).get("label", value.rpartition(".")[2]))
    if last == "_target_":
        return component_of(key).replace(".", " ") or value.rpartition(".")[2]
    if key.startswith("code."):  # a file, and the version of it
        return f"{key.removeprefix('code.')} {value}"
    if last == "name" and owner in GROUPS:
        return value
    value = DURATION.sub(r"\1 \2", value)
    return f"{LABELLED_KEYS.get(key, last.replace('_', ' '))} {value}"


def key_label(key: str) -> str:
    """Returns the label of a key on the axis of a figure and in sentences.

    >>> key_label("optimizer.lr"), key_label("+optimizer.weight_decay"), key_label("schedule.max_lr")
    ('learning rate', 'weight decay', 'schedule max learning rate')
    >>> key_label("optimizer.betas"), key_label("optimizer.cg_max_iter"), key_label("batching.size")
    ('β₁, β₂', 'CG max iterations', 'batch size')
    >>> key_label("optimizer.betas[1]"), key_label("model.hidden[1]")
    ('β₂', 'model hidden 2')
    """
    key, _, index = key.lstrip("+").partition("[")
    if index:
        label, number = key_label(key), int(index.rstrip("]"))
        parts = label.split(", ")
        return parts[number] if len(parts) > 1 else f"{label} {number + 1}"
    words = re.split(r"[._]", key.removeprefix("optimizer."))
    return LABELLED_KEYS.get(key, " ".join(WORDS.get(word, word) for word in words))


def method_styles(names: Iterable[str]) -> dict[str, Style]:
    """Returns the colour and the line style of each method.

    Where methods differ in their optimizer, colours are those of the optimizers; several methods of one optimizer
    differ in the line. Where they do not, or a colour has more methods than there are lines, methods get colours by
    their number, and where colours repeat another line.

    Args:
        names: of methods, as in `optimizer=adam optimizer.lr=0.01`.
    """
    names = list(dict.fromkeys(names))
    optimizers = [optimizer_of(name) for name in names]
    firsts = optimizer_styles(optimizer for optimizer in optimizers if optimizer is not None)
    crowd = max(Counter(colour for colour, _ in (firsts[o] for o in optimizers if o is not None)).values(), default=0)
    if None in optimizers or len(firsts) == 1 < len(names) or crowd > len(LINES):
        count = len(PALETTE)
        return {name: (PALETTE[i % count], LINES[i // count % len(LINES)]) for i, name in enumerate(names)}
    styles: dict[str, Style] = {}
    for name, optimizer in zip(names, optimizers, strict=True):
        first = firsts[str(optimizer)]
        others = [(first[0], line) for line in LINES if (first[0], line) not in firsts.values()]
        styles[name] = next(style for style in (first, *others) if style not in styles.values())
    return styles


def optimizer_styles(optimizers: Iterable[str]) -> dict[str, Style]:
    """Returns the colour and the line style of each optimizer, which are those of conf/labels.yaml.

    Of an optimizer that is not listed there they depend on its name: of the free pairs, in an order that the name
    gives, it gets the first whose colour no other optimizer of these has.
    """
    listed = {
        name: (COLOURS[entry["colour"]], LINE_STYLES[entry["line"]])
        for name, entry in shipped(FILE)["optimizer"].items()
    }
    names = set(optimizers)
    styles = {name: listed[name] for name in names if name in listed}
    for name in sorted(names - listed.keys()):
        free = [pair for pair in product(PALETTE, LINES) if pair not in listed.values() and pair not in styles.values()]
        free.sort(key=lambda pair: hashlib.sha256(f"{name} {pair}".encode()).digest())
        used = {colour for colour, _ in styles.values()}
        styles[name] = next((pair for pair in free if pair[0] not in used), free[0])
    return styles
