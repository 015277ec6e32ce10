"""Terms that are added to the loss.

May import vectors, arguments and protocols.
"""
