"""The report of a run: one self-contained HTML page with charts, and videos beside it.

`load` reads what the robot and the trainer wrote, `statistics` and `svg` are pure, `sections` turns rows
into what the template shows, `build` writes the folder. Nothing here changes a run or talks to a network.
"""
