"""One file for each command (`trainopt resume`, `trainopt compare`, …): its arguments, and what it prints.

May import every other package of the project.
"""
