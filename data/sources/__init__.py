"""Where the samples of a batch come from: memory, files, features; augmentation.

Imports nothing else of data but digests.
"""
