"""People at the robot: their commands, the terminal's keys, the web page, what they are shown.

Owns the way from a front end to control and back. Doesn't own what a command means for an episode
(`runtime.control.episode`, `runtime.control.process`) nor the arm (`runtime.gate.gate`).
"""
