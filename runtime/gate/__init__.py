"""The gate: the only code that may command the arm, and the pure arithmetic by which it judges."""
