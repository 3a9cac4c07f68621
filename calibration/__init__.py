"""Camera intrinsics, hand-eye, latency and quantisation calibration sets.

Owns what is measured of a robot and how sure that is (`robot-calibrate`), and what of it is written down. May
import `contracts` and the cameras, arms and gate of `runtime`.
"""
