"""The arithmetic: codes and values, scattered rows, pooled bags, scores, sums, key hashes.

`quantization` is the specification in NumPy, as are `search_scan`, `stats_survey`, `key_search` and
`part_kernels` for what they compute; `kernels` is the one place that picks C (``qstore/_kernels``) or
NumPy, with the same bits. `arguments` checks what users hand in. Comes in: arrays. Goes out: arrays. No
file is touched here.

May use: system, errors.
"""
