"""The contracts' door to disk: atomic files and LeRobotDataset v3.0 with Entracte's own columns."""
