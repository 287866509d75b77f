"""NumPy's own files: .npy, and .npz archives of them."""
