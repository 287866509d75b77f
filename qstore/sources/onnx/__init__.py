"""ONNX models: initializers, in the file or in external data beside it, and what the graph makes of them."""
