"""Records of compared runs: those that a comparison keeps, and those at which runs reach a target.

May import what comparison may.
"""
