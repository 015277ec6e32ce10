"""Data sets by name, and their splits.

May import sources, digests and errors.
"""
