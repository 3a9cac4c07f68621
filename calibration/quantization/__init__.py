"""Calibration sets for quantisation: recorded observations, drawn evenly over what a robot meets.

`strata` says which kind of moment a step is, `draw` takes steps from data sets, `card` judges a set and
keeps it on disk. Owns no quantisation: that is `export.quantize`.
"""
