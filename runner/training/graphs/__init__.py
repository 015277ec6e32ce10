"""Forward and backward pass of a step as a CUDA graph.

May import what training may.
"""
