"""Learning-rate schedules: functions of the position in a run.

Imports nothing else of the optimizers but arguments and protocols.
"""
