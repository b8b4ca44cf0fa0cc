"""compress: a model compression workbench. Recipes chain distillation, pruning and quantization into measured ONNX files."""

__version__ = "0.1.0"
