#!/usr/bin/env bash
# Usage: lint.sh DIR
# Installs the pinned clang-format and typos into DIR/bin. Does nothing when DIR holds this set.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stamp=$(cat "$here/lint.txt" "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1)
if [ -f "$1/.stamp" ] && [ "$(cat "$1/.stamp")" = "$stamp" ]; then exit 0; fi
python3 -m pip --version >/dev/null 2>&1 || { echo "lint.sh: python3 with pip is missing (apt-get install python3-pip)" >&2; exit 1; }
tmp=$1.tmp.$$
trap 'rm -rf "$tmp"' EXIT
PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
    --only-binary :all: --require-hashes --target "$tmp/wheels" -r "$here/lint.txt"
mkdir "$tmp/bin" "$tmp/licenses"
# The programs themselves, without their Python starters.
mv "$tmp/wheels/clang_format/data/bin/clang-format" "$tmp/wheels/bin/typos" "$tmp/bin/"
cp "$tmp"/wheels/clang_format-*.dist-info/licenses/LICENSE.md "$tmp/licenses/clang-format.md"
rm -rf "$tmp/wheels"
"$tmp/bin/clang-format" --version >/dev/null
"$tmp/bin/typos" --version >/dev/null
echo "$stamp" > "$tmp/.stamp"
rm -rf "$1"
mv "$tmp" "$1"
trap - EXIT
