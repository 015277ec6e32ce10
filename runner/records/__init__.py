"""What is on disk, read and written without building a run: run folders, metrics, checkpoint files, loggers.

May import config, system and models (safe_load).
"""
