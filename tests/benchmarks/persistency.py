"""What persistency gains where loading matters: images a second of training, K updates a batch against one.

A linear classifier on 32x32 colour images that are flipped and cropped, trained by our loop; images count once
for each update. With L seconds to load a batch and U for an update, measured beside the runs (L: batches taken and
not used; U: a run on a single batch), K updates a batch can gain (L + U) / (L / K + U).
"""

import copy
import itertools
from statistics import median
from time import perf_counter

import torch

from pairs import hardware, ratios, report
from training import built, trained
from trainopt.data import Batching, Constant, Position, batches
from trainopt.runner.config.contracts import complete
from trainopt.runner.state.run import Run

BATCH, STEPS, PAIRS = 128, 400, 7
LR = 1e-6  # nothing is learnt: gradients of batches that are fitted are denormal numbers, with which a CPU is slow
OVERRIDES = (
    *("model=mlp", "model.hidden=[]", "data=synthetic", "data.image_shape=[3,32,32]", "data.train_size=12800"),
    *(
        "data.test_size=256",
        "augmentation.flip=0.5",
        "augmentation.crop_padding=4",
        f"batching.size={BATCH}",
        f"duration={STEPS}steps",
    ),
)


def seconds_an_update(run: Run, start: dict, persistency: int) -> float:
    """Trains with so many updates a batch; returns the seconds of an update by the clock of training."""
    run = copy.copy(run)
    run.batching = complete(Constant(BATCH, persistency=persistency), Batching, "batching")
    run, _ = trained(run, start, LR)
    return run.clocks.seconds["train"] / run.progress.step


def seconds_a_batch(run: Run) -> float:
    """Takes batches without using them, one held as a loop does; returns the seconds of one."""
    began = perf_counter()
    for _ in itertools.islice(batches(run.training_set, Constant(BATCH), run.seed, Position()), STEPS):
        pass
    return (perf_counter() - began) / STEPS


def main() -> bool:
    """Measures K = 2 and 5 against 1."""
    torch.set_num_threads(1)
    print(f"\nPersistency, images a second of training. {hardware()}")
    run = built(*OVERRIDES)
    start = copy.deepcopy(run.network.state_dict())
    holds, loads, updates = True, [], []
    for k in (2, 5):

        def one() -> float:
            loads.append(seconds_a_batch(run))
            return seconds_an_update(run, start, 1)

        def several(k: int = k) -> float:
            updates.append(seconds_an_update(run, start, STEPS))
            return seconds_an_update(run, start, k)

        a, b, gain = ratios(one, several, PAIRS)
        load, update = median(loads), median(updates)
        print(f"K = {k}: {BATCH / b:,.0f} against {BATCH / a:,.0f} images/s: {gain:.2f} times as many")
        bound = (load + update) / (load / k + update)
        name = f"of what L = {1e6 * load:.0f} us and U = {1e6 * update:.0f} us allow, {bound:.2f}"
        holds &= report(name, gain / bound, 0.9, above=True)
    return holds


if __name__ == "__main__":
    raise SystemExit(not main())
