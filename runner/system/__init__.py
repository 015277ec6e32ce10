"""What is needed to run on a system: errors, files, locks, signals, devices, the screen, Hydra's private parts.

Imports nothing of the project.
"""
