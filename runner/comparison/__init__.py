"""Runs compared: methods, tests of significance, tables, curves and the report of `trainopt compare`.

May import sweeps (tuning_budget), state, reporting, records and system.
"""
