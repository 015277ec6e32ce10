"""Published studies: what to run for each, its metrics and claims, and the report.

May import comparison, search, sweeps, analysis, reporting, records, config and system.
"""
