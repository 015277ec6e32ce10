"""Sources of batches: images in memory, features; and augmentation.

May import samples, digests and errors.
"""
