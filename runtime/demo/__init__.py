"""`robot-run demo`: what it runs, what it shows, and the demonstrations it begins from."""
