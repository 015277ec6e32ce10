"""The configuration: options, overrides, validation, instantiation, names of runs.

May import system, and of data and models the error classes only.
"""
