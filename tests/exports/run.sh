#!/bin/sh
# Exports an index in every format and reads the files back with other people's tools: DuckDB and pandas (Parquet), the
# csv module, the official JSON schema of SARIF 2.1.0, and a validator of OpenAPI for what `orthoscope serve` describes.
#
#   tests/exports/run.sh INDEX
#
# Needs python3 with venv, cargo, and a release build.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
index=${1:?an index is needed}
work=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT INT TERM
binary=${ORTHOSCOPE:-$root/target/release/orthoscope}
"$binary" export --index "$index" --sqlite "$work/index.db"
for format in csv parquet sarif jsonl in-toto; do
    "$binary" export --index "$work/index.db" --format "$format" --out "$work/export.$format"
done
"$binary" stats --index "$work/index.db" --format json --charts "$work/charts" >"$work/stats.json"

# The example of docs/index.md, as whoever has nothing but Python runs it, and below with pandas.
python3 -c 'import sys; sys.modules["pandas"] = None; sys.argv = sys.argv[1:]; exec(open(sys.argv[0]).read())' \
    "$root/examples/read_index.py" "$work/index.db" >"$work/read.txt"
grep -q "orthogonalized *against hf:" "$work/read.txt"
grep -q "layer .* λ [01].* ± " "$work/read.txt"

. "$root/tests/serve.sh"

# OASIS's own schema, as this crate carries it; fetched as any dependency is, and not built.
mkdir -p "$work/schema/src"
: >"$work/schema/src/lib.rs"
cat >"$work/schema/Cargo.toml" <<'MANIFEST'
[package]
name = "schema"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
serde-sarif = "=0.8.0"
MANIFEST
cargo metadata --quiet --format-version 1 --manifest-path "$work/schema/Cargo.toml" >"$work/metadata.json"

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check duckdb pandas pyarrow jsonschema rfc3986-validator openapi-spec-validator pillow
"$work/venv/bin/python" "$root/examples/read_index.py" "$work/index.db" >"$work/read.txt"
grep -q "^module .*o_proj" "$work/read.txt"
"$work/venv/bin/python" "$here/check.py" "$work" "$address"
