"""The reward server: one process that scores for many askers, and the reward model that asks it."""
