"""Captures for `robot-calibrate`: stands of the arm with pictures of a board, each judged before it is kept.

`stillness` says when arm and board stand, `looking` what a picture is worth, `taking` keeps the stands,
`progress` says how far they are, `suggestion` which is next, `live` moves and looks.
"""
