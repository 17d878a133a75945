#!/bin/sh
# Exports an index in every format and reads the files back with other people's tools: DuckDB and pandas (Parquet), the
# csv module, and a model of SARIF 2.1.0.
#
#   tests/exports/run.sh INDEX
#
# Needs python3 with venv, and a release build.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
index=${1:?an index is needed}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
binary=${ORTHOSCOPE:-$root/target/release/orthoscope}
for format in csv parquet sarif jsonl; do
    "$binary" export --index "$index" --format "$format" --out "$work/export.$format"
done
"$binary" stats --index "$index" --format json >"$work/stats.json"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet duckdb pandas pyarrow sarif-pydantic
"$work/venv/bin/python" "$here/check.py" "$work"
