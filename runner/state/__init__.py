"""One run in memory, and what is saved of it: progress, clocks, objective, evaluation, checkpoint state, recorder.

May import records, config, system, data and optimizers.
"""
