"""Any Gymnasium environment as a robot: a simulation in the bench's place, mapped by the configuration.

`section` is the configuration, `mapping` turns numbers of one side into those of the other, `environment` is
the one door to Gymnasium, `server` the process; arm and camera are entry points. docs/external_benchmarks.md
"""
