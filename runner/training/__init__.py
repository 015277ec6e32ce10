"""Builds a run from its configuration, checks that its components are compatible, and trains it.

May import probes, averaging, precision, regularizers, state, reporting, records, config, system, data, models and
optimizers.
"""
