"""torch to ONNX to TensorRT: export, parity check, quantisation, benchmark."""
