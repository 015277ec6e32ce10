"""The data of a run: the training set, and the sets that it is evaluated on.

May import config, system and data.
"""
