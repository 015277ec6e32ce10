"""Folders of images: their layout, their pixels, and batches of them.

May import datasets, sources, samples, digests and errors.
"""
