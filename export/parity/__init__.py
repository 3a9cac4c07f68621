"""Does every form of a model answer alike: torch, its ONNX graph, each engine. Runs without torch too (then
the golden vectors, which torch computed, are the reference).
"""
