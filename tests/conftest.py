"""Puts this folder on the path, so that tests of all rooms share `tiny_package` and `tiny_robot`."""
