"""What every system uses and nothing else: stages, settings, data sets, claims, the Ray head, clock, faults, figures.

`lab` imports no system. Nothing is re-exported here, so that a stage pays only for the module it needs.
"""
