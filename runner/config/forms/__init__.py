"""What YAML files may hold: the rules of values, and studies and suites as dataclasses.

May import what config may.
"""
