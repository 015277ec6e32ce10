"""The GPUs and cores of a machine, shared out to the jobs of sweeps.

May import runner's system.
"""
