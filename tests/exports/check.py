"""Reads exported files back with other tools and holds them against one another and against published schemas."""

import csv
import json
import pathlib
import sys
import urllib.request
import xml.etree.ElementTree

import duckdb
import jsonschema
import openapi_spec_validator
import pandas
import pyarrow.parquet
from PIL import Image

folder, address = pathlib.Path(sys.argv[1]), sys.argv[2]
records = [json.loads(line) for line in (folder / "export.jsonl").read_text().splitlines()]
assert records, "the index is empty"
assert all(record["schema"] == "orthoscope/examination/1" for record in records)

# CSV: no cell begins a formula.
with open(folder / "export.csv", newline="") as file:
    rows = list(csv.DictReader(file))
assert len(rows) == len(records)
for row in rows:
    for name, cell in row.items():
        try:
            float(cell)
        except ValueError:
            assert not cell.lstrip().startswith(("=", "+", "-", "@")), (name, cell)

# Parquet: pandas, DuckDB and pyarrow read the same.
path = str(folder / "export.parquet")
frame = pandas.read_parquet(path)
assert list(frame.columns) == list(rows[0]), "CSV and Parquet have other columns"
assert pyarrow.parquet.read_metadata(path).num_rows == len(records)
assert sorted(frame["candidate"]) == sorted(record["candidate"]["source"] for record in records)
verdicts = dict(duckdb.sql(f"SELECT verdict, count(*) FROM '{path}' GROUP BY verdict").fetchall())
assert sum(verdicts.values()) == len(records)
for verdict, count in verdicts.items():
    assert count == sum(record["verdict"] == verdict for record in records), verdict
assert frame["consistency"].dtype == float and frame["tensors"].dtype.kind in "uif"
several = [record for record in records if record.get("variants")]
assert sorted(frame[frame["variants"] > 1]["candidate"]) == sorted(record["candidate"]["source"] for record in several)

# SARIF against the official schema, formats of addresses and times included.
packages = json.loads((folder / "metadata.json").read_text())["packages"]
[manifest] = [package["manifest_path"] for package in packages if package["name"] == "serde-sarif"]
schema = json.loads((pathlib.Path(manifest).parent / "src" / "schema.json").read_text())
assert schema["title"] == "Static Analysis Results Format (SARIF) Version 2.1.0 JSON Schema", schema["title"]
validator = jsonschema.Draft7Validator(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
log = json.loads((folder / "export.sarif").read_text())
faults = [f"{fault.json_path}: {fault.message[:200]}" for fault in validator.iter_errors(log)]
assert not faults, "\n".join(faults[:20])
assert list(validator.iter_errors({**log, "version": "2.0.0"})), "the schema takes anything"
assert list(validator.iter_errors({**log, "runs": [{}]})), "the schema takes a run without a tool"
findings = sum(len(record["findings"]) for record in records)
assert sum(len(run["results"]) for run in log["runs"]) == findings


# SARIF as GitHub's code scanning takes it: what its documentation says is needed, and its limits.
def refused(log):
    def at_most(what, things, limit):
        if len(things) > limit:
            yield f"{what}: {len(things)}"

    yield from at_most("runs", log["runs"], 20)
    for run in log["runs"]:
        rules, results = run["tool"]["driver"]["rules"], run["results"]
        yield from at_most("results", results, 25_000)
        yield from at_most("rules", rules, 25_000)
        for rule in rules:
            for name, limit in (("shortDescription", 1024), ("fullDescription", 1024), ("help", 1_000_000)):
                if not 0 < len(rule.get(name, {}).get("text", "")) <= limit:
                    yield f"{rule['id']}: {name}"
            yield from at_most("tags", rule["properties"]["tags"], 20)
            if not 0 <= float(rule["properties"]["security-severity"]) <= 10:
                yield f"{rule['id']}: security-severity"
        seen = set()
        for result in results:
            name = f"{result.get('ruleId')}: {result['message'].get('text', '')[:60]}"
            if rules[result["ruleIndex"]]["id"] != result["ruleId"] or not result["message"].get("text"):
                yield name
            fingerprint = result["partialFingerprints"].get("primaryLocationLineHash")
            if not fingerprint or fingerprint in seen:
                yield f"{name}: fingerprint {fingerprint}"
            seen.add(fingerprint)
            if not result["locations"]:
                yield f"{name}: no location"
            places = result["locations"] + result.get("relatedLocations", [])
            yield from at_most(name, places, 1000)
            for place in places:
                physical = place.get("physicalLocation", {})
                uri = physical.get("artifactLocation", {}).get("uri", "")
                if not uri or uri.startswith("/") or ":" in uri or ".." in uri.split("/"):
                    yield f"{name}: expected a physical location, not {uri!r}"
                if physical.get("region", {}).get("startLine", 0) < 1:
                    yield f"{name}: no line"
            if result["kind"] == "fail" and result["level"] == "none":
                yield f"{name}: a failure of no level"


faults = list(refused(log))
assert not faults, "\n".join(faults[:20])
without = json.loads(json.dumps(log))
del without["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
assert list(refused(without)), "anything is taken"
related = sum(len(result["relatedLocations"]) for result in log["runs"][0]["results"])
suppressed = sum(bool(result["suppressions"]) for result in log["runs"][0]["results"])

# in-toto: a statement for each examination with a digest to name.
statements = [json.loads(line) for line in (folder / "export.in-toto").read_text().splitlines()]
for statement in statements:
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:orthoscope:examination:1"
    assert all(subject["digest"] for subject in statement["subject"])

# Prevalence, and its charts as pictures and as tables.
stats = json.loads((folder / "stats.json").read_text())
assert stats["schema"] == "orthoscope/prevalence/1"
assert stats["overall"]["examined"] <= stats["overall"]["listed"] <= len(records)
charts = sorted(file.stem for file in (folder / "charts").glob("*.svg"))
assert charts, "no charts"
for name in charts:
    xml.etree.ElementTree.parse(folder / "charts" / f"{name}.svg")
    picture = Image.open(folder / "charts" / f"{name}.png").convert("L")
    low, high = picture.getextrema()
    assert picture.width > 600 and low < 80 and high > 200, (name, picture.size, low, high)
    with open(folder / "charts" / f"{name}.csv", newline="") as file:
        assert list(csv.DictReader(file)), name


def ask(path):
    with urllib.request.urlopen(address + path) as answer:
        return json.load(answer)


# The JSON interface: its description is OpenAPI, and its answers are as described.
described = ask("/api/openapi.json")
openapi_spec_validator.validate(described)
broken = json.loads(json.dumps(described))
del broken["info"]["title"]
try:
    openapi_spec_validator.validate(broken)
except Exception:
    pass
else:
    raise AssertionError("the validator of OpenAPI takes anything")


def holds(name, value):
    jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
    ).validate(value)


listed = ask("/api/v1/examinations?rows=500")
holds("Page", listed)
for row in listed["items"]:
    holds("Examination", ask(f"/api/v1/examinations/{row['id']}"))
    for decision in ask(f"/api/v1/examinations/{row['id']}/decisions"):
        holds("Decision", decision)
assert ask("/api/v1/prevalence")["overall"]["examined"] == stats["overall"]["examined"]

print(f"exports agree: {len(records)} examinations, {findings} findings, verdicts {verdicts}, {len(statements)} statements")
print(f"code scanning takes {findings} results: {related} related locations, {suppressed} suppressed or under review")
print(f"SARIF holds under the official schema, OpenAPI under its own; charts: {', '.join(charts)}")
