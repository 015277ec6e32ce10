"""Sources of batches: images in memory, features; and augmentation.

May import digests and errors.
"""
