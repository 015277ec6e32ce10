"""How the methods of a comparison were tuned: their searches, tables, and the best of so many trials.

May import what comparison may.
"""
