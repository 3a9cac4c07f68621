"""How good a reward model is: figures with intervals, benchmarks, blind baselines, robustness."""
