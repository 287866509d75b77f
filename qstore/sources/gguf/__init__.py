"""GGUF: `header` says where tensors lie, `tensors` reads their rows, quantized blocks included."""
