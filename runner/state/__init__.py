"""One run in memory, and what is saved of it: progress, clocks, objective, evaluation, checkpoints, records.

May import records, config, system, data and optimizers.
"""
