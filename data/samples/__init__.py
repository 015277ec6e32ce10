"""Samples one at a time, in worker processes: the random numbers of each.

May import digests and errors.
"""
