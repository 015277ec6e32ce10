"""Data sets by name, and how they are split.

May import sources.
"""
