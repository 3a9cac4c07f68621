"""The control process: the episode and its tick, what is observed, which action is due, how it ends."""
