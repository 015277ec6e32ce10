"""The networks of this package: for small images, tables, and sequences of tokens.

Imports nothing else of trainopt.
"""
