"""`robot-run doctor`: what a start needs and what it would lack, one line each with the fix.

`checks` knows which there are and keeps each to its time; the others hold one subject each.
"""
