"""The verb `export`: write an ONNX folder from a torch folder and prove that both say the same."""
