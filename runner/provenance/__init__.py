"""What a run used: the machine, the versions of packages, the user's own code, and the commits that hold it.

Imports nothing of the project.
"""
