"""Scores of optimizers over several workloads, from times to a target: pure functions of arrays. Needs no torch.

May import nothing of the others.
"""
