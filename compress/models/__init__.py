"""Open models: folders, the hub, the embedded teacher; and one face for torch and ONNX decoders."""
