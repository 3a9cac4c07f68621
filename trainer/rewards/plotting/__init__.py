"""Pictures of what a reward model says of a video: opening it, scoring it as it would be seen, drawing."""
