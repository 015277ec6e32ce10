"""Terms that are added to the loss.

Imports nothing else of the optimizers but vectors, arguments and protocols.
"""
