"""Searches with Optuna: the space, the study, the metric of a trial, running trials, and what is reported.

May import sweeps, reporting, records, config and system.
"""
