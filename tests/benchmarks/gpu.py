"""On a GPU: our loop, products, the Gram probe and the input pipeline; ratios of interleaved pairs, in limited time.

A step of our loop is compared with that of a bare loop that takes its batches from the same pipeline, and a step with
cuda_graph=auto with a replay of the bare step as a CUDA graph; both with airbench's way of training (Jordan 2024,
arXiv:2404.00498): weights in 16 bits but for batch norm, channels last, a whole epoch augmented at once on the device,
label smoothing. The time of recording our graph is left out. Products and steps of EHNewton are in gradients and in
steps of SGD, as in second_order.py (gpu_steps.py); the probe is that of fisher.py.

The parts run in the order of PARTS; one that would end after the limit is named, and not begun. Each is made of pieces;
where one fails, its error is printed, and the others are measured. Without a GPU nothing is measured and the exit code
is 0; `--device cpu --smoke` runs every line but the capture of a graph, on tiny batches.
"""

import argparse
import copy
import json
import statistics
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import fisher
from gpu_setting import Figure, Piece, Setting, ratio_of
from gpu_steps import products
from pairs import hardware, ratios
from training import built, trained
from trainopt.data import Augmentation, InMemory, Position, batches
from trainopt.runner.state.run import Run

COLOUR = (
    "data=synthetic",
    "data.image_shape=[3,32,32]",
    "data.num_classes=10",
    "augmentation.flip=0.5",
    "augmentation.crop_padding=4",
)
BF16 = ("precision=bf16", "channels_last=true")
LOOPS = {  # overrides, steps, batch size
    "MLP 64-12-12-10, batch 128": (("model=mlp",), 1500, 128),
    "ResNet-20, batch 128": (("model=resnet20", *COLOUR), 150, 128),
    "ResNet-20, batch 128, bf16, channels last": (("model=resnet20", *COLOUR, *BF16), 150, 128),
    "ResNet-34, batch 512, bf16, channels last": (("model=resnet34_cifar", *COLOUR, *BF16), 60, 512),
}
SMOKE = ("MLP 64-12-12-10, batch 128", "ResNet-20, batch 128, bf16, channels last")
PAIRS = (
    ("our step", "a bare loop", 1.02),
    ("our step as a graph", "the replay of a CUDA graph", 1.1),
    ("our step as a graph", "a bare loop", None),
    ("our step", "airbench's way", None),
    ("our step as a graph", "airbench's way", None),
)
FIRST, MORE = 10, 4  # steps, of which the third is recorded; how many times as many steps with graphs are measured
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


def loops(setting: Setting) -> Iterator[Piece]:
    """Measures one step of our loop against those of others."""
    for name in SMOKE if setting.smoke else LOOPS:
        of_name = cache(partial(runs_of, setting, name))  # built by the first piece that is measured
        for ours, peer, bound in PAIRS:
            if peer != "airbench's way" or "data=synthetic" in LOOPS[name][0]:
                yield f"{name}: {ours} / {peer}", partial(pair, setting, name, of_name, ours, peer, bound)


def runs_of(setting: Setting, name: str) -> tuple[dict[str, Run], dict, int, int]:
    """Returns our runs of a network by name, its initial state, and how many steps with which batches to make."""
    overrides, full_steps, full_size = LOOPS[name]
    steps, size = setting.fewer(full_steps), setting.batch(full_size)
    train, test = (3 * size, size) if setting.smoke else (50_000, 1000)
    data = (f"data.train_size={train}", f"data.test_size={test}") if "data=synthetic" in overrides else ()
    device = "cuda" if setting.device.type == "cuda" else "cpu"
    common = (f"device={device}", *overrides, *data, f"duration={steps}steps", f"batching.size={size}")
    runs = {"our step": built(*common), "our step as a graph": built(*common, "cuda_graph=auto")}
    return runs, copy.deepcopy(runs["our step"].network.state_dict()), steps, size


def pair(
    setting: Setting, name: str, of_name: Callable[[], tuple], ours: str, peer: str, bound: float | None
) -> Iterator[Figure]:
    """Measures one of our steps against one of another loop."""
    runs, start, steps, size = of_name()
    seconds_of = {"our step": our_seconds, "our step as a graph": graphed_seconds}[ours]
    theirs = {"a bare loop": bare, "the replay of a CUDA graph": replayed, "airbench's way": airbench}[peer]
    one, other, ratio = ratios(
        lambda: seconds_of(setting, runs[ours], start, steps),
        lambda: theirs(setting, runs["our step"], start, steps, size),
        setting.fewer(3),
    )
    yield Figure(f"{name}: {ours}, in steps of {peer}", ratio, "ratio", bound)
    yield Figure(f"{name}: a step of {peer}, beside {one / steps * 1e3:.3f} ms of ours", other / steps * 1e3, "ms")


def our_seconds(setting: Setting, run: Run, start: dict, steps: int) -> float:
    """Returns the seconds of so many steps of our loop, without its two evaluations."""
    run = copy.copy(run)
    run.duration = f"{steps}steps"
    run, elapsed = trained(run, start)
    setting.wait()
    return elapsed - run.clocks.seconds["evaluation"]


def graphed_seconds(setting: Setting, run: Run, start: dict, steps: int) -> float:
    """Returns the seconds of so many steps that follow the first ones, in which a graph is recorded.

    Raises:
        ValueError: the time of recording varies by more than the steps take.
    """
    many = setting.fewer(MORE * steps)
    seconds = our_seconds(setting, run, start, FIRST + many) - our_seconds(setting, run, start, FIRST)
    if seconds <= 0 and not setting.smoke:
        raise ValueError(f"{many} steps take less time than recording varies by")
    return abs(seconds) * steps / many


def bare_step(run: Run, start: dict) -> Callable[[Tensor, Tensor], None]:
    """Returns what a script does for a batch, from a state."""
    network = run.network
    network.load_state_dict(start)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network.train()
    context = {"device_type": run.device.type, "dtype": run.autocast, "enabled": run.autocast is not None}

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(**context, cache_enabled=False):  # a graph may keep no cached casts
            loss = cross_entropy(network(inputs), targets)
        loss.backward()
        optimizer.step()

    return step


def bare(setting: Setting, run: Run, start: dict, steps: int, _: int) -> float:
    """Returns the seconds of a bare loop on our batches."""
    step = bare_step(run, start)
    stream = batches(run.training_set, run.batching, run.seed, Position())
    return setting.seconds(lambda: [step(*next(stream)[:2]) for _ in range(steps)])


def replayed(setting: Setting, run: Run, start: dict, steps: int, _: int) -> float:
    """Returns the seconds of as many replays of a bare step on one batch."""
    step = bare_step(run, start)
    inputs, targets = next(batches(run.training_set, run.batching, run.seed, Position()))[:2]
    replay = setting.captured(lambda: step(inputs, targets))
    return setting.seconds(replay, steps) * steps


def airbench(setting: Setting, run: Run, start: dict, steps: int, size: int) -> float:
    """Returns the seconds of a loop in the way of airbench, augmentation included."""
    run.network.load_state_dict(start)
    layout = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
    network = copy.deepcopy(run.network).to(**layout).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    stream = run.training_set.ordered(size)
    images, labels = (torch.cat(part) for part in zip(*(next(stream) for _ in range(steps)), strict=True))

    def train() -> None:
        augmented = cropped_and_flipped(images, 4).to(**layout)
        for chosen in torch.randperm(len(labels), device=labels.device).split(size):
            outputs = network(augmented[chosen])
            loss = cross_entropy(outputs, labels[chosen], label_smoothing=0.2, reduction="sum")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return setting.seconds(train)


def cropped_and_flipped(images: Tensor, padding: int) -> Tensor:
    """Returns all images, each moved by up to `padding` pixels and half of them mirrored."""
    count, _, height, width = images.shape
    device = images.device
    images = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.5, images.flip(-1), images)
    padded = pad(images, (padding,) * 4, mode="reflect")
    top, left = torch.randint(2 * padding + 1, (2, count), device=device)
    rows = (top[:, None] + torch.arange(height, device=device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=device))[:, None, None, :]
    index = torch.arange(count, device=device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=device)[None, :, None, None]
    return padded[index, channels, rows, columns]


def probe(setting: Setting) -> Iterator[Piece]:
    """Measures a step with the Gram matrix of the per-sample gradients in steps without."""
    yield "Gram matrix", partial(gram_step, setting)


def gram_step(setting: Setting) -> Iterator[Figure]:
    with setting.device:
        case = fisher.Case(8 if setting.smoke else 20, setting.batch(128))
    ratio = ratio_of(setting, case.recorded_step, case.step, setting.fewer(10))
    yield Figure("ResNet-20, batch 128: a step with the Gram matrix, in steps without", ratio, "ratio", 1.4)


def pipeline(setting: Setting) -> Iterator[Piece]:
    """Measures images a second: stored and augmented on the device, flip, padded crop and normalisation."""
    yield "images", partial(images_a_second, setting)


def images_a_second(setting: Setting) -> Iterator[Figure]:
    count, size = (64, 4) if setting.smoke else (50_000, 128)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count)
    for name, options in (
        ("flip, crop", {}),
        ("flip, crop, Cutout, mixup", {"cutout": 16, "mixup": 1.0}),
    ):
        augmentation = Augmentation(flip=0.5, crop_padding=4, **options)
        source = InMemory(images, labels, MEAN, STD, augmentation=augmentation, num_classes=10, device=setting.device)
        for batch in (size, 4 * size):
            spans = [(start, start + batch) for start in range(0, count - batch + 1, batch)]
            times = [setting.seconds(lambda s=source, p=spans: drain(s.epoch(0, 0, p))) for _ in range(3)]
            rate = len(spans) * batch / statistics.median(times)
            yield Figure(f"32x32 images, batch {batch}: {name}", rate, "images/s")


def drain(stream: Iterator) -> None:
    """Takes every batch of a stream, holding one as a training loop does."""
    for _ in stream:
        pass


PARTS = {"loop": (loops, 180), "products and steps": (products, 90), "probe": (probe, 20), "pipeline": (pipeline, 30)}


def measured(setting: Setting, limit: float) -> tuple[list[Figure], dict[str, str]]:
    """Runs the parts that fit; returns their figures, and why parts lack some, by part.

    Args:
        setting: where and how large.
        limit: seconds for all; a part begins where the seconds beside its name in PARTS are left, and is stopped
            between two figures when they are over.
    """
    began, figures, lacking = perf_counter(), [], {}
    for name, (part, expected) in PARTS.items():
        left = limit - (perf_counter() - began)
        if left < expected:
            lacking[name] = f"not begun: it takes about {expected} s, and {left:.0f} s are left"
            continue
        for title, piece in part(setting):
            try:
                for figure in piece():
                    figures.append(figure)
                    print(line(figure), flush=True)
                    if perf_counter() - began > limit:
                        break
            except Exception as error:  # noqa: BLE001 - the other pieces are measured
                traceback.print_exc(limit=4)
                lacking[f"{name}, {title}"] = f"failed: {type(error).__name__}: {str(error)[:200]}"
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()
            if perf_counter() - began > limit:
                lacking[name] = "stopped at the time limit"
                break
    return figures, lacking


def line(figure: Figure) -> str:
    number = f"{figure.value:.3f}" if figure.value < 1000 else f"{figure.value:,.0f}"
    bound = "" if figure.bound is None else f"  (at most {figure.bound:g}){'' if figure.holds else '  NOT MET'}"
    return f"{figure.name:<96} {number:>12} {figure.unit}{bound}"


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures on a GPU; a table last, and a file of results.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, whose figures mean nothing")
    parser.add_argument("--seconds", type=float, default=420.0, help="limit of the whole")
    parser.add_argument("--out", type=Path, help="JSON file of results")
    return parser.parse_args()


def main() -> int:
    """Measures what fits; returns 1 where a part failed, or a bound is exceeded."""
    arguments = read_arguments()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("nothing is measured: torch sees no CUDA GPU here")
        return 0
    warnings.simplefilter("ignore")
    torch.backends.cudnn.benchmark = True
    setting = Setting(torch.device(arguments.device), arguments.smoke)
    card = torch.cuda.get_device_name() if setting.device.type == "cuda" else "none"
    machine = f"GPU: {card}; {hardware()}"
    print(machine, flush=True)
    figures, lacking = measured(setting, arguments.seconds)
    print(f"\n{machine}")
    for figure in figures:
        print(line(figure))
    for name, reason in lacking.items():
        print(f"{name}: {reason}")
    results = {"gpu": card, "machine": machine, "figures": [asdict(figure) for figure in figures], "lacking": lacking}
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    failed = any(reason.startswith("failed") for reason in lacking.values())
    return int(failed or (not setting.smoke and not all(figure.holds for figure in figures)))


if __name__ == "__main__":
    sys.exit(main())
