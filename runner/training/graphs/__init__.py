"""Steps as CUDA graphs, and networks that torch.compile compiles.

May import what training may.
"""
