#!/bin/sh
# Opens the pages of `orthoscope serve` in Chromium: queue, filters, dossier, decision, audit trail, API, accessibility.
#
#   tests/browser/run.sh INDEX [FOLDER]
#
# INDEX is an index with at least one orthogonalized examination (as `orthoscope demo` makes it); it is copied, so it stays
# as it is. Pictures go to FOLDER (default target/browser). Needs chromium, node, npm, and a release build.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
index=${1:?an index is needed}
pictures=${2:-$root/target/browser}
work=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT INT TERM
mkdir -p "$pictures"
pictures=$(cd "$pictures" && pwd)
binary=${ORTHOSCOPE:-$root/target/release/orthoscope}
"$binary" export --index "$index" --sqlite "$work/index.db"
. "$root/tests/serve.sh"
cp "$here/package.json" "$here/test.mjs" "$work/"
(cd "$work" && npm install --silent --no-audit --no-fund)
chromium=$(command -v chromium) || { echo "chromium is needed (Debian: apt-get install chromium)" >&2; exit 1; }
(cd "$work" && ADDRESS=$address BINARY=$binary CHROMIUM=$chromium INDEX=$work/index.db PICTURES=$pictures WORK=$work node test.mjs)
