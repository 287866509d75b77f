"""HDF5: `safe_file` opens a file that may be hostile, `datasets` reads matrices, `store_again` stores."""
