"""Measure any artifact, torch or ONNX: accuracy, size, latency, memory. Changes nothing."""
