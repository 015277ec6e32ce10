"""The loss on a fixed sample of the training set, of the weights and of their average."""

from trainopt.data import Batch

from ..state.evaluation import evaluate
from ..state.run import Probe, Run


class TrainingLossProbe(Probe):
    """Evaluates the loss on the same training samples each time, so that it does not depend on the batch.

    As an evaluation does it: in evaluation mode, without augmentation, label smoothing and regularizers. The samples
    are class-balanced, and the same for every seed. A row holds `loss`; where the run averages its weights, `loss` is
    that of the average and `raw_loss` that of the weights that are trained.

    Args:
        every: a duration; after the step that completes it, the loss is evaluated.
        samples: number of training samples, above 0; all of them where there are fewer.

    Raises:
        ValueError: `samples` is below 1.
    """

    takes_shard = True

    def __init__(self, every: str = "10steps", samples: int = 1000):
        if samples < 1:
            raise ValueError(f"samples={samples}: must be at least 1")
        self.every, self.samples, self.training_samples = every, samples, samples

    def before_step(self, run: Run, batch: Batch) -> None:
        """Does nothing."""

    def after_step(self, run: Run, batch: Batch) -> dict[str, float]:
        """Returns the loss after the step."""
        del batch
        loss = _loss(run)
        if run.averaged is None:
            return {"loss": loss}
        with run.averaged.active() as is_average:
            return {"loss": _loss(run) if is_average else loss, "raw_loss": loss}


def _loss(run: Run) -> float:
    source, size = run.training_sample, run.evaluation_batch_size
    assert source is not None
    row = evaluate(run.network, run.forward, source, size, run.objective.loss, {}, run.autocast, ranks=run.ranks)
    return float(row["loss"])
