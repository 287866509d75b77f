"""GGUF: `header` says where tensors lie, `parts` which files belong together, `tensors` reads rows."""
