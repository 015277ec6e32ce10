"""A run's network for others: its weights, what timm or plain PyTorch loads them with, and a model card.

May import comparison, analysis, state, reporting, records, config, system, data and models.
"""
