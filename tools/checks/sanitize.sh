#!/usr/bin/env bash
# The tests of kernels, keys and the parser of text over an extension built with the address and undefined-behavior
# sanitizers (gcc). Works in a temporary copy of the repository; needs an environment with qstore's dependencies,
# pytest and hypothesis. Any report ends the tests with an error.
#
#     tools/checks/sanitize.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r qstore tests docs pyproject.toml "$work"
cd "$work"
include=$("$python" -c "import sysconfig; print(sysconfig.get_path('include'))")
gcc -shared -fPIC -O1 -g -std=c11 -ffp-contract=off -fno-omit-frame-pointer \
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -DPy_LIMITED_API=0x030B0000 \
    -I"$include" qstore/_kernels/*.c -o qstore/_native.abi3.so
# Leaks are not looked for: the interpreter itself keeps memory until the end.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 QSTORE_REQUIRE_EXTENSION=1 PYTHONPATH="$work" \
    "$python" -m pytest -q -p no:cacheprovider tests/engine tests/keys \
    tests/sources/test_text_parser.py "$@"
