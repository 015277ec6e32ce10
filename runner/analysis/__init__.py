"""Checkpoints after training: evaluation, ensembles, the loss landscape between them, and following a run.

May import training, averaging, state, metrics, reporting, records, config, system, data and models.
"""
