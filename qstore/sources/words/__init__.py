"""Word vectors: a word and its vector, row after row, as text or binary. `base` has what both share."""
