"""Suites of workloads: their searches, the costs to their targets, and the page with the scores of submissions.

May import scores, studies, comparison, search, reporting, records, config and system.
"""
