"""Exact products with the Hessian, and what is computed with them: conjugate gradients and Taylor estimates.

May import vectors, arguments, functional_signatures, scalars and compat_torch.
"""
