"""Files on disk, read and written without building a run: run folders, metrics, job tables, checkpoints, loggers.

May import config, system and models.
"""
