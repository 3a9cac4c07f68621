"""Hand-eye calibration: where cameras are, on the hand or in the world, from pictures of a board.

`samples` holds what was seen, `closed_form` the solvers of OpenCV, `estimate` the joint estimate with its
uncertainty. Frames: `base` of the arm, `hand` (its flange or gripper frame), `camera` (optical: z forward, y
down), `board`. A camera on the hand looks at a board in the world, one in the world at a board on the hand.
"""
