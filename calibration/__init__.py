"""Camera intrinsics, hand-eye, latency and quantisation calibration sets.

Owns nothing yet: the tools arrive with their own issue. May import `contracts` and the cameras, arms and
gate of `runtime`.
"""
