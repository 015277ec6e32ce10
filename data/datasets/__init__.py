"""Data sets by name, and their splits.

May import sources, samples, digests and errors.
"""
