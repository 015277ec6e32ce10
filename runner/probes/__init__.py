"""Diagnostics: what is measured at some steps of a run (group `probe`).

May import state, config, data and optimizers.
"""
