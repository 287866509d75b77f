"""safetensors: single files (`tensors`), checkpoints in several files with an index (`index`), and the shards
that torch's Hugging Face storage writer leaves (`shards`)."""
