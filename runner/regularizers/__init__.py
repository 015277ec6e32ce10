"""Regularizers that follow the course of a run, and the snapshots that escaping minima needs.

May import state, records, system, models and optimizers.
"""
