"""Sweeps: their jobs, checked, planned and run, and the job table on screen.

May import training, reporting, records, config and system.
"""
