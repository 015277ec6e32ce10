"""Gradients of each sample of a batch, and the matrix of their inner products.

Imports nothing else of the optimizers but vectors and arguments.
"""
