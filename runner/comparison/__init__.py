"""Runs compared: methods over seeds, tests of significance, tables, figures and the report of `trainopt compare`.

May import search, sweeps, state, reporting, records, config and system.
"""
