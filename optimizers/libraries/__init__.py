"""Optimizers of other libraries, as a run needs them; a library is imported when one of its optimizers is built.

What an optimizer needs is found by steps on a small problem, before the run.
"""
