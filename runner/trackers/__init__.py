"""Services that show runs (W&B, MLflow, Trackio): what is in a run's folder is sent to them, each record once.

A run starts a process that follows its folder, so that it never waits for a service and never fails with one;
`trainopt sync` does the same afterwards. A service's package is imported when it is used. May import records, config
and system.
"""
