"""Evaluations of averaged weights: the average takes the place of the weights, and they get theirs back, bit for bit.

May import state, config, system, data, models and optimizers.
"""
