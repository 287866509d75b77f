"""safetensors: single files (`tensors`) and checkpoints in several files with an index (`index`)."""
