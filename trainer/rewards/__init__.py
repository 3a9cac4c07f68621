"""Reward models: the edge model (data, training, evaluation) and the references it is measured against."""
