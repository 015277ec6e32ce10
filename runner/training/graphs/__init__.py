"""Steps as CUDA graphs, batches that are prepared beside them, and networks that torch.compile compiles.

May import what training may.
"""
