"""Data for reward models: from recordings of many kinds to RoboReward-format and LRM-format data."""
