"""Verbs of `robot-run` that fill a module with arguments and printing: black box, keys, slots, ..."""
