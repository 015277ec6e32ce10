"""The commands for clusters, and what a task on one runs.

May import cluster, sweeps, records, config and system, and runner.commands.run, whose sweeps these are.
"""
