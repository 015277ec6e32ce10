"""Averages of the weights in the course of training, which evaluations take.

May import protocols.
"""
