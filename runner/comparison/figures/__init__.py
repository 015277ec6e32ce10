"""Figures of a comparison: curves of methods, vectors and matrices of evaluations, the Fisher measures."""
