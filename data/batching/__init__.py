"""How many samples a batch has, how often it is used, and the stream of batches.

May import sources.
"""
