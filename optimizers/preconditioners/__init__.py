"""Approximations M of the curvature whose inverses are cheap: metrics of conjugate gradients.

May import curvature, functional_signatures, scalars and compat_torch.
"""
