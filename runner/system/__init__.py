"""What has nothing to do with training: errors, files, locks, signals, devices, the screen.

Imports nothing of the project.
"""
