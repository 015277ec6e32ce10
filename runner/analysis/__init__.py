"""What is done with checkpoints after training: evaluate, ensemble, loss landscape, follow a run.

May import training, state, reporting, records, config, system, data and models.
"""
