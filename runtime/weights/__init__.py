"""Weights on the robot: releases on disk, the swap between episodes, probation, and what became of each."""
