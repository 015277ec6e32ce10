"""Exact products with the Hessian, and what is computed from them.

Imports nothing else of the optimizers but vectors and arguments.
"""
