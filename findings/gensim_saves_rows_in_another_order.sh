#!/usr/bin/env bash
# gensim: `save_word2vec_format` writes rows in the order of counts, not in the order of the model.
#
# Version: gensim 4.4.0.
# Behaviour: once words have a count (trained models and loaded vocabularies have), the file is
# sorted by it. After words were added or counts updated, line i of the file is not row i of
# `vectors` and `key_to_index`. In memory nothing is moved, and without counts the order is kept.
# Hurt: whoever keeps row numbers beside the file: labels, a second matrix, an index of neighbours.
#
# Seen:
#> model       ['first', 'second', 'third']
#> plain.txt   ['first', 'second', 'third']
#> counted.txt ['second', 'third', 'first']
#> read back   ['second', 'third', 'first']
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'gensim==4.4.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import numpy as np
from gensim.models import KeyedVectors

model = KeyedVectors(3)
model.add_vectors(["first", "second", "third"], np.eye(3, dtype="f4"))
model.save_word2vec_format("plain.txt")
for word, count in {"first": 1, "second": 5, "third": 3}.items():
    model.set_vecattr(word, "count", count)
model.save_word2vec_format("counted.txt")
print("model      ", model.index_to_key)
for path in ("plain.txt", "counted.txt"):
    with open(path) as file:
        print(f"{path:11}", [line.split()[0] for line in file][1:])
print("read back  ", KeyedVectors.load_word2vec_format("counted.txt").index_to_key)
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
