"""Data sets that a user brings as map-style torch Datasets, and batches of their samples.

May import datasets, sources, samples, digests and errors.
"""
