"""Sweeps on a cluster: what a task asks for, the submissions of a sweep, and SLURM's commands.

May import sweeps, records, config and system.
"""
