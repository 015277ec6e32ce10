"""Figures of one run; style, tables and HTML that all figures and reports share.

May import records, config and system.
"""
