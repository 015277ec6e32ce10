"""Runs that are killed at drawn moments (the script `python -m faults.kills`, in tests/), and drawn inputs."""
