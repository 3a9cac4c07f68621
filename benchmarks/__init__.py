"""`robot-bench` and the experiments: may import every room, nobody imports it."""
