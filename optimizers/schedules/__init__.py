"""Learning-rate schedules: functions of the progress of a run.

May import arguments and protocols.
"""
