"""Sweeps: jobs, the sweep on disk, status, the learning-rate search and the tournament.

May import training, reporting, records, config and system.
"""
