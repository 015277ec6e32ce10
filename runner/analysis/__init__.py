"""Checkpoints after training: evaluation, ensembles, the loss landscape between them, and following a run.

May import training, state, reporting, records, config, system, data and models.
"""
