"""EHNewton: the optimizer, its truncated Newton step, and the closed form for a linear softmax classifier.

May import curvature, regularizers, vectors, arguments, functional_signatures, scalars and compat_torch.
"""
