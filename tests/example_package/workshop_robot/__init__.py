"""The workshop's robot: an arm bolted on the other way round, a gauge camera, a task and its reward."""
