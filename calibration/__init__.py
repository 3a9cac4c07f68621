"""Camera intrinsics, hand-eye, latency and quantisation calibration sets.

Owns the sets of `calibration.quantization`; the other tools arrive with their own issue. May import
`contracts` and the cameras, arms and gate of `runtime`.
"""
