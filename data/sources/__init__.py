"""Sources of batches: images in memory, images in folders, features; and augmentation.

May import digests and errors.
"""
