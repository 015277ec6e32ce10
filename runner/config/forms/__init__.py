"""What YAML files may hold: studies and suites as dataclasses.

May import what config may.
"""
