"""Reads exported files back with other tools and holds them against one another."""

import csv
import json
import pathlib
import sys

import duckdb
import pandas
from sarif_pydantic import Sarif

folder = pathlib.Path(sys.argv[1])
records = [json.loads(line) for line in (folder / "export.jsonl").read_text().splitlines()]
assert records, "the index is empty"
assert all(record["schema"] == "orthoscope/examination/1" for record in records)

with open(folder / "export.csv", newline="") as file:
    rows = list(csv.DictReader(file))
assert len(rows) == len(records)
for row in rows:
    for name, cell in row.items():
        try:
            float(cell)
        except ValueError:
            assert not cell.lstrip().startswith(("=", "+", "-", "@")), (name, cell)

path = str(folder / "export.parquet")
frame = pandas.read_parquet(path)
assert list(frame.columns) == list(rows[0]), "CSV and Parquet have other columns"
assert sorted(frame["candidate"]) == sorted(record["candidate"]["source"] for record in records)
verdicts = dict(duckdb.sql(f"SELECT verdict, count(*) FROM '{path}' GROUP BY verdict").fetchall())
for verdict, count in verdicts.items():
    assert count == sum(record["verdict"] == verdict for record in records), verdict
assert frame["consistency"].dtype == float and frame["tensors"].dtype.kind in "uif"

text = (folder / "export.sarif").read_text()
log = Sarif.model_validate_json(text)
findings = sum(len(record["findings"]) for record in records)
assert sum(len(run.results or []) for run in log.runs) == findings
for result in json.loads(text)["runs"][0]["results"]:
    assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]

stats = json.loads((folder / "stats.json").read_text())
assert stats["schema"] == "orthoscope/prevalence/1"
assert stats["overall"]["examined"] <= stats["overall"]["listed"] <= len(records)
print(f"exports agree: {len(records)} examinations, {findings} findings, verdicts {verdicts}")
