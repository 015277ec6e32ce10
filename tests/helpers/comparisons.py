"""A comparison of two methods, for the tests of comparisons."""

from trainopt.runner import load_runs
from trainopt.runner.comparison.methods import compare_methods, exclusion_reason

SGD, ADAM = [90.0, 91.0, 92.0, 90.5], [93.0, 94.5, 94.0, 93.5]  # final accuracies by seed, in percent


def methods(folder, **options):
    """Returns the comparison of the runs below a folder, and its methods by name."""
    comparison = compare_methods(load_runs([folder], exclusion_reason), **options)
    return comparison, {m.name: m for m in comparison.methods}
