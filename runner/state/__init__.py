"""One run in memory, and what is saved of it: progress, clocks, objective, evaluation, checkpoint state, recorder.

May import metrics, objectives, records, config, system, data and optimizers.
"""
