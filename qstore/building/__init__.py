"""From any source to finished stores: one, one for each tensor, shards; joined, published, compared again.

Comes in: what `sources` opens, finished stores. Goes out: published files and reports of what was done.
`one` is the main job; `verify_against` quantizes a source again and compares.

May use: the front doors (`writer.py`, `opening.py`, `store.py`) and every wing below them.
"""
