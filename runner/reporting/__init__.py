"""Figures of one run; style, tables and HTML pages that all figures and reports share.

May import records, config, system and models.
"""
