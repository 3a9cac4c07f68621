"""Pictures of what a reward model says of a video: opening it, scoring it as it would be seen, drawing."""

MARK = "robot-reward plot"
"""In every picture and film, so that no file of another origin is replaced by one."""
