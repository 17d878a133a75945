//! The description of the JSON API (OpenAPI 3.1).

use axum::Json;
use serde_json::{Value, json};

/// The filters of a list: name, what it is.
const FILTERS: &[(&str, &str)] = &[
    ("outcome", "orthogonalized, suspect, inconclusive, clear or not-examined"),
    (
        "severity",
        "smallest severity: none, info, low, medium, high; a claim of a base that is not borne out is of low severity at least",
    ),
    ("base", "the base, as its source is spelled"),
    ("family", "the architecture"),
    ("form", "the candidate's format"),
    ("decision", "open, confirmed, dismissed, second-look or appealed"),
    ("downloads", "fewest downloads"),
    ("since", "examined on this day or later, e.g. 2026-01-31"),
    ("until", "examined on this day or earlier"),
    ("text", "a piece of the candidate's name"),
    ("uploader", "the candidate's owner on its hub"),
    ("signature", "the id of a signature that holds"),
    ("relation", "what the candidate is to the base, e.g. fine-tuned"),
    ("claim", "whether the claim of a base holds: holds, false, not-told or none"),
    ("declared", "yes or no: whether name or tags say that refusals were taken out"),
    ("sort", "severity (default), newest or downloads"),
    ("after", "`next` of an earlier page"),
    ("rows", "rows of a page, at most 500"),
];

pub(super) async fn document() -> Json<Value> {
    Json(describe())
}

fn parameter(place: &str, name: &str, what: &str) -> Value {
    json!({ "name": name, "in": place, "required": place == "path", "description": what, "schema": { "type": "string" } })
}

fn answered(what: &str, schema: &Value) -> Value {
    let error = json!({ "$ref": "#/components/schemas/Error" });
    let failed = |what: &str| json!({ "description": what, "content": { "application/json": { "schema": error } } });
    json!({
        "200": { "description": what, "content": { "application/json": { "schema": schema } } },
        "400": failed("a parameter cannot be read"),
        "401": failed("a token is needed"),
        "404": failed("there is no such thing"),
    })
}

fn get(id: &str, what: &str, parameters: Vec<Value>, schema: &Value) -> Value {
    json!({ "operationId": id, "summary": what, "parameters": parameters, "responses": answered(what, schema) })
}

fn describe() -> Value {
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let array = |name: &str| json!({ "type": "array", "items": schema(name) });
    let id = || parameter("path", "id", "the examination's id, or enough of its first digits");
    let filters = FILTERS.iter().map(|(name, what)| parameter("query", name, what)).collect();
    let mut decide = get("decide", "the decision that was recorded", vec![id()], &schema("Decision"));
    decide["summary"] = json!("Records a decision; decisions are never changed or deleted.");
    decide["requestBody"] = json!({
        "required": true, "content": { "application/json": { "schema": schema("NewDecision") } }
    });
    if let Some(responses) = decide["responses"].as_object_mut()
        && let Some(done) = responses.remove("200")
    {
        responses.insert("201".to_owned(), done);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "orthoscope",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "What checkpoints are to their claimed bases, and whether they are consistent with weight orthogonalization.",
        },
        "servers": [{ "url": "/api/v1" }],
        "security": [{}, { "token": [] }],
        "paths": {
            "/examinations": { "get": get("list", "A page of examinations.", filters, &schema("Page")) },
            "/examinations/{id}": { "get": get("one", "One examination, as documented in docs/examination.md.",
                vec![id(), parameter("query", "profile", "1 for all measurements")], &schema("Examination")) },
            "/examinations/{id}/decisions": {
                "get": get("decisions", "The decisions about an examination, oldest first.", vec![id()], &array("Decision")),
                "post": decide,
            },
            "/repositories/history": { "get": get("history", "The examinations of a repository, newest first.",
                vec![parameter("query", "source", "e.g. hf:owner/name")], &array("Row")) },
            "/prevalence": { "get": get("prevalence", "Counts and shares by base, family, size, form, month and uploader.",
                vec![
                    parameter("query", "sensitivity", "the detector's detection rate in percent, to correct for"),
                    parameter("query", "false_positives", "its false-positive rate in percent"),
                ], &json!({ "type": "object" })) },
        },
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let optional = |kind: &str| json!({ "type": [kind, "null"] });
    let time = json!({ "type": "string", "format": "date-time" });
    let decision = json!({ "enum": ["confirmed", "dismissed", "second-look", "appealed"] });
    json!({
        "Error": { "type": "object", "required": ["error"], "properties": { "error": text, "kind": text } },
        "Page": { "type": "object", "required": ["items", "next"], "properties": {
            "items": { "type": "array", "items": { "$ref": "#/components/schemas/Row" } }, "next": optional("string"),
        } },
        "Row": { "type": "object", "properties": {
            "id": text, "candidate": text, "revision": optional("string"), "base": text,
            "outcome": { "enum": ["orthogonalized", "suspect", "inconclusive", "clear", "not-examined"] },
            "relation": text, "severity": { "type": "integer", "minimum": 0, "maximum": 4 },
            "finding": optional("string"), "signature": optional("string"), "form": text, "family": text, "downloads": optional("integer"),
            "seen": time, "because": text, "decision": text, "uploader": text,
            "claim": { "enum": ["holds", "false", "not-told", "none"] }, "declared": { "type": "boolean" },
            "first_seen": time, "lambda_min": optional("number"), "lambda_max": optional("number"),
        } },
        "Examination": { "type": "object", "required": ["schema", "status", "verdict", "relation"], "properties": {
            "schema": text, "status": { "enum": ["complete", "partial", "failed"] },
            "verdict": { "enum": ["orthogonalized", "suspect", "clear", "inconclusive"] }, "relation": text,
        } },
        "NewDecision": { "type": "object", "required": ["decision", "who"], "additionalProperties": false, "properties": {
            "decision": decision, "who": { "type": "string", "minLength": 1, "maxLength": 100 },
            "note": { "type": "string", "maxLength": 10000 },
        } },
        "Decision": { "type": "object", "properties": {
            "key": { "type": "integer" }, "examination": text, "made_at": time, "who": text, "decision": decision,
            "note": text, "chain": text,
        } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_somewhere() {
        let document = describe();
        let text = document.to_string();
        for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
        assert!(document["paths"]["/examinations/{id}/decisions"]["post"]["responses"].get("201").is_some());
    }
}
