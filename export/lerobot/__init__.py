"""LeRobot's ACT and Diffusion checkpoints -> model packages, without LeRobot: definitions of our own."""
