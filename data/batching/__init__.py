"""The size of batches over a run, batch reuse, and the stream of batches.

May import sources, samples, digests and errors.
"""
