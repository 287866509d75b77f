#!/usr/bin/env bash
# faiss's 8-bit scalar quantizer gives back none of the values it was trained with: zeros become
# positive.
#
# Version: faiss-cpu 1.15.1.
# Behaviour: QT_8bit keeps the least value of each dimension and the range, cuts down to a code from
# 0 to 255, and decodes code + 1/2. The largest value trained with comes back larger, the least one
# larger too, and a zero where zero is the least value of a dimension comes back as half a step.
# QT_8bit_direct does no clipping: 300 and -7 become 44 and 249, while QT_8bit clips.
# Hurt: sparse, rectified or padded vectors, whose zero rows get a length and a direction; whoever
# puts floats a little out of range into the direct kind.
#
# Seen:
#> QT_8bit        [[0.002, 0.5], [1.002, 255.5], [0.5, 100.5]]
#> QT_8bit_direct [[44.0, 249.0]] of [[300.0, -7.0]]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'faiss-cpu==1.15.1' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import faiss
import numpy as np

rows = np.array([[0, 0], [1, 255], [0.5, 100]], "f4")
quantizer = faiss.ScalarQuantizer(2, faiss.ScalarQuantizer.QT_8bit)
quantizer.train(rows)
decoded = quantizer.decode(quantizer.compute_codes(rows))
print("QT_8bit       ", [[round(float(value), 4) for value in row] for row in decoded])
direct = faiss.ScalarQuantizer(2, faiss.ScalarQuantizer.QT_8bit_direct)
direct.train(rows)
far = np.array([[300, -7]], "f4")
print("QT_8bit_direct", direct.decode(direct.compute_codes(far)).tolist(), "of", far.tolist())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
