"""Latencies of cameras and arms, from how the same movement looks to each of them.

`delay` compares two signals; `motion` makes a signal of pictures.
"""
