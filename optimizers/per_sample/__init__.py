"""Gradients of each sample of a batch, and the Gram matrix of their inner products.

May import vectors, arguments, functional_signatures and compat_torch.
"""
