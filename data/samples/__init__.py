"""Samples one at a time, in worker processes: the random numbers and the transforms of each.

May import digests and errors.
"""
