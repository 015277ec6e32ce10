"""The run that ties the rooms together: command line, loop, objective, evaluation, checkpoints, records."""
