//! Made-up examinations for the tests of the renderers, hostile ones among them.

use std::collections::BTreeMap;

use serde_json::json;

use crate::arch::{Axis, Kind, Role};
use crate::checkpoint::Anomaly;
use crate::examination::*;
use crate::index::decision::{Choice, Decision};
use crate::judge::combine::combine;
use crate::profile::{Profile, Projection, Sameness, TensorMeasurement};
use crate::report::{ListingFacts, Report, SignatureText, UploadFacts};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn side(source: &str, fill: char) -> Side {
    Side {
        source: source.into(),
        revision: Some(COMMIT.into()),
        digest: Some(format!("sha256:{}", fill.to_string().repeat(64))),
        files: vec![FileDigest {
            name: "model.safetensors".into(),
            bytes: 269_060_552,
            sha256: Some(format!("sha256:{}", fill.to_string().repeat(64))),
        }],
        format: Some("safetensors".into()),
        variant: None,
    }
}

/// A finding with two clauses.
pub fn finding() -> Finding {
    Finding {
        id: "0a1b2c3d4e5f".into(),
        signature: "out-rank1-global".into(),
        signature_hash: format!("sha256:{}", "c".repeat(64)),
        severity: Severity::High,
        status: "stable".into(),
        evidence: json!({
            "projection.consistency": {"value": 0.9987, "min": 0.9},
            "projection.layers": {"value": 16.0, "min": 2.0},
            "delta.scale_explained": {"value": 0.02, "max": 0.5}
        }),
    }
}

/// λ of a tent over layers 4 to 19 of 24.
fn tent(layer: u32) -> f64 {
    // Two decimals: serde_json reads longer ones back within one unit in the last place only.
    let tent = 1.2 - 0.13 * (f64::from(layer) - 12.0).abs();
    if (4..20).contains(&layer) { (tent * 100.0).round() / 100.0 } else { 0.0 }
}

fn tensor(layer: u32, module: &str, kind: Kind, relative: f64, lambda: Option<f64>) -> TensorMeasurement {
    let changed = relative > 0.0;
    let role = Role { kind, module: module.into(), layer: Some(layer), expert: None, residual: Some(Axis::Rows) };
    let sameness = if changed { Sameness::Changed } else { Sameness::Identical };
    TensorMeasurement {
        shape: [576, 1536],
        base_dtype: "BF16".into(),
        candidate_dtype: "BF16".into(),
        changed_fraction: if changed { 0.9 } else { 0.0 },
        relative_norm: relative,
        max_abs: relative,
        cosine: 0.9999,
        scale_explained: [0.02, 0.03, 0.03],
        changed_rows: if changed { 1.0 } else { 0.0 },
        rounding: 0.001,
        kurtosis: 3.0,
        spectrum: if changed { vec![0.98, 0.001] } else { Vec::new() },
        effective_rank: 1.02,
        above_noise: u32::from(changed),
        values_known: 12,
        low_rank_share: 0.99,
        cliff: 20.0,
        last_share: 0.0001,
        noise: 0.001,
        projection: lambda.map(|strength| Projection {
            strength,
            stderr: 0.008,
            consistency: 0.998,
            cross_fit: 0.997,
            explained: 0.985,
            quietness: 1.0,
            balance: 0.01,
            own_component: 0.71,
            agreement: (990.0 - 2.0 * f64::from(layer)).round() / 1000.0,
            sibling_agreement: Some(0.998),
            directions: 1,
            fits: true,
            ..Projection::default()
        }),
        ..TensorMeasurement::same(format!("model.layers.{layer}.{module}.weight"), role, sameness)
    }
}

fn profile(lambda: fn(u32) -> f64) -> Profile {
    let mut tensors = Vec::new();
    for layer in 0..24 {
        for module in ["o_proj", "down_proj"] {
            let strength = lambda(layer);
            let fitted = (strength != 0.0).then_some(strength);
            tensors.push(tensor(layer, module, Kind::Writer, (strength * 300.0).round() / 10000.0, fitted));
        }
        for module in ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"] {
            tensors.push(tensor(layer, module, Kind::Reader, 0.0, None));
        }
        tensors.push(tensor(layer, "input_layernorm", Kind::Norm, 0.0, None));
    }
    let model = [
        ("projection.consistency", 0.9987),
        ("projection.cross_fit", 0.997),
        ("rank.top1", 0.98),
        ("delta.scale_explained", 0.02),
        ("delta.row_scale_explained", 0.03),
        ("delta.column_scale_explained", 0.03),
        ("projection.own_component", 0.71),
        ("projection.layers", 16.0),
        ("projection.axis_weight", 0.04),
        ("projection.channel", 0.0),
        ("delta.zeroed", 0.0),
    ];
    Profile { model: model.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), tensors }
}

fn strengths(lambda: fn(u32) -> f64) -> Vec<Strength> {
    let mut all = Vec::new();
    for module in ["o_proj", "down_proj"] {
        for layer in 0..24 {
            let stderr = if lambda(layer) == 0.0 { 0.0 } else { 0.008 };
            all.push(Strength { layer, module: module.into(), expert: None, lambda: lambda(layer), stderr });
        }
    }
    all
}

fn blank(candidate: &str) -> Examination {
    Examination {
        schema: SCHEMA.into(),
        tool: Tool { version: "0.1.0".into(), catalogue: format!("sha256:{}", "d".repeat(64)) },
        base: side("hf:example/tiny-base", 'a'),
        candidate: side(candidate, 'b'),
        status: Status::Complete,
        reason: None,
        depth: Depth::Full,
        coverage: Coverage {
            tensors: 272,
            compared: 272,
            identical: 240,
            bytes_read: 538_121_104,
            not_examined: Vec::new(),
        },
        relation: Relation::FineTuned,
        verdict: Verdict::Clear,
        ..Examination::blank(Side::default(), Side::default())
    }
}

/// One direction removed from both writers of layers 4 to 19, as a tent.
pub fn orthogonalized() -> Examination {
    Examination {
        relation: Relation::Edited,
        verdict: Verdict::Orthogonalized,
        because: "32 of 48 writers fit one shared direction, and no benign control reached this consistency".into(),
        orthogonalization: Some(Orthogonalization {
            p_value: 0.004,
            consistency: 0.9987,
            explained: 0.985,
            coordinates: "raw".into(),
            directions: 1,
            scope: "global".into(),
            tensors: 32,
            layers: (4..20).collect(),
            strength: strengths(tent),
            detection_limit: 0.0031,
            recipe: vec![
                "λ over depth: a tent around layer 12".into(),
                "row and column norms not kept".into(),
                "everything but o_proj and down_proj left byte-identical".into(),
                "families consistent with it: interpolated-kernel tools".into(),
            ],
        }),
        findings: vec![finding()],
        claim: Some(Claim {
            base: Some("hf:example/tiny-base".into()),
            relation: Some("finetune".into()),
            evidence: vec![ClaimEvidence { from: "card.base_model".into(), says: "example/tiny-base".into() }],
            holds: Some(true),
        }),
        profile: Some(profile(tent)),
        ..blank("hf:example/tiny-edited")
    }
}

/// The same with two strengths and no profile, short enough to show whole.
pub fn orthogonalized_short() -> Examination {
    let mut examination = orthogonalized();
    if let Some(o) = &mut examination.orthogonalization {
        o.strength.retain(|s| s.layer == 12);
        o.layers = vec![11, 12];
        o.tensors = 2;
    }
    examination
}

/// A fine-tune.
pub fn clear() -> Examination {
    Examination {
        because: "no writer fits a removed direction".into(),
        coverage: Coverage {
            tensors: 272,
            compared: 270,
            identical: 0,
            bytes_read: 538_121_104,
            not_examined: vec![
                NotExamined { tensor: "lm_head.weight".into(), reason: "tied to embed_tokens".into() },
                NotExamined { tensor: "model.rotary.inv_freq".into(), reason: "not in the candidate".into() },
            ],
        },
        orthogonalization: Some(Orthogonalization {
            p_value: 1.0,
            consistency: 0.09,
            explained: 0.004,
            coordinates: "raw".into(),
            directions: 0,
            scope: "global".into(),
            tensors: 0,
            layers: Vec::new(),
            strength: strengths(|_| 0.0),
            detection_limit: 0.021,
            recipe: Vec::new(),
        }),
        ..blank("hf:example/tiny-tuned")
    }
}

/// One layer only.
pub fn suspect() -> Examination {
    let one_layer: fn(u32) -> f64 = |layer| if layer == 7 { 0.4 } else { 0.0 };
    Examination {
        verdict: Verdict::Suspect,
        relation: Relation::Edited,
        because: "a removed direction fits in one layer only".into(),
        orthogonalization: Some(Orthogonalization {
            p_value: 0.12,
            consistency: 0.97,
            explained: 0.8,
            coordinates: "row-normalised".into(),
            directions: 1,
            scope: "global".into(),
            tensors: 2,
            layers: vec![7],
            strength: strengths(one_layer),
            detection_limit: 0.05,
            recipe: Vec::new(),
        }),
        profile: Some(profile(one_layer)),
        ..blank("/models/candidate folder")
    }
}

/// A gated repository.
pub fn failed() -> Examination {
    Examination {
        status: Status::Failed,
        reason: Some("denied: listing files of hf:example/gated: the hub wants an access grant (403)".into()),
        depth: Depth::Hashes,
        coverage: Coverage::default(),
        relation: Relation::Incomparable,
        verdict: Verdict::Inconclusive,
        ..blank("hf:example/gated")
    }
}

/// A copy of the base.
pub fn identical() -> Examination {
    Examination { relation: Relation::Identical, depth: Depth::Hashes, ..blank("hf:example/tiny-copy") }
}

/// Every string that a repository controls, as bad as it gets.
pub fn hostile() -> Examination {
    let script = "<script>alert(1)</script>";
    let mut examination = orthogonalized();
    examination.candidate = Side {
        source: format!("hf:{script}/x\u{202e}cod.exe"),
        revision: Some("\u{1b}]0;owned\u{7}".into()),
        digest: None,
        files: vec![FileDigest { name: "=HYPERLINK(\"x\")".into(), bytes: u64::MAX, sha256: None }],
        format: Some(script.into()),
        variant: None,
    };
    examination.because = format!("{script}\nnew line \u{1b}[2J");
    examination.claim = Some(Claim {
        base: Some("=cmd|' /C calc'!A0".into()),
        relation: Some(script.into()),
        evidence: (0..20)
            .map(|i| ClaimEvidence { from: format!("card[{i}]"), says: format!("{script} [x](y) | `z`") })
            .collect(),
        holds: Some(false),
    });
    examination.coverage.not_examined =
        vec![NotExamined { tensor: "x".repeat(1 << 20), reason: "\u{9b}31mred | <b>bold</b>".into() }];
    examination.anomalies = (0..40)
        .map(|i| Anomaly {
            kind: "duplicate-tensor".into(),
            file: format!("../../{script}"),
            tensor: Some(format!("\u{200b}{i}\u{feff}|`")),
            detail: "@SUM(1+1)*cmd|' /C calc'!A0".into(),
        })
        .collect();
    if let Some(o) = &mut examination.orthogonalization {
        o.p_value = f64::MIN_POSITIVE;
        o.detection_limit = 0.0;
        o.recipe = vec![format!("{script}\r\n# heading")];
        o.strength.push(Strength { layer: 3, module: script.into(), expert: Some(1), lambda: -0.4, stderr: 1e300 });
    }
    for finding in &mut examination.findings {
        finding.signature = script.into();
        finding.evidence = json!({ script: {"value": 1.0, "min": "nonsense"}, "other": [1, 2] });
    }
    if let Some(profile) = &mut examination.profile {
        profile.tensors.truncate(4);
        profile.tensors[0].name = script.into();
        profile.tensors[1].role.module = format!("{script}\u{202e}");
        profile.tensors[2].role.layer = Some(u32::MAX);
    }
    examination
}

/// A repository with three checkpoints: one edited, one honest, one that could not be read and would run code.
pub fn several() -> Examination {
    let with = |mut examination: Examination, variant: &str, format: &str| {
        examination.candidate.source = "hf:example/two-faces".into();
        examination.candidate.variant = Some(variant.into());
        examination.candidate.format = Some(format.into());
        examination.profile = None;
        examination
    };
    let mut pickle = with(failed(), "pytorch_model|<b>.bin", "pickle");
    pickle.reason = Some("reading pytorch_model.bin: not a tensor file".into());
    pickle.findings = vec![code_finding()];
    let variants =
        vec![with(clear(), "model.safetensors", "safetensors"), with(orthogonalized(), "Q4_K_M", "gguf"), pickle];
    let mut whole =
        combine(side("hf:example/two-faces", 'b'), variants, Default::default(), |_| ()).expect("there are three");
    whole.claim = Some(Claim {
        base: Some("hf:example/tiny-base".into()),
        relation: Some("quantized".into()),
        evidence: Vec::new(),
        holds: Some(true),
    });
    whole
}

/// A finding whose evidence is a list of imports.
pub fn code_finding() -> Finding {
    Finding {
        id: "00ff00ff00ff".into(),
        signature: "code-on-load".into(),
        evidence: json!({ "imports": ["posix.system in pytorch_model.bin", "<script>alert(1)</script> in `x|y`"] }),
        severity: Severity::Medium,
        ..finding()
    }
}

/// A decision with markup in it.
pub fn decision(choice: Choice) -> Decision {
    Decision {
        key: 1,
        examination: "e".repeat(64),
        made_at: jiff::Timestamp::from_second(1_767_323_045).expect("in range"),
        who: "moderator <b>".into(),
        decision: choice,
        note: "<img src=x onerror=alert(1)>".into(),
        chain: "0".repeat(64),
    }
}

/// Catalogue prose for the signature of [`finding`].
pub fn catalogue() -> BTreeMap<String, SignatureText> {
    let text = SignatureText {
        title: "One direction removed from every writer".into(),
        seen: "Attention and MLP outputs of many layers lost one shared direction.".into(),
        look_alikes: "A rank-1 adapter on writers only shares the output side, not the input side.".into(),
        advice: "Compare with what the card declares.\n\nAsk a second person before acting.".into(),
    };
    BTreeMap::from([("out-rank1-global".to_owned(), text)])
}

/// A report of one examination with the catalogue's prose and what is known beside the record.
pub fn report(examination: Examination) -> Report {
    let mut report = Report::of(examination);
    report.catalogue = catalogue();
    for examination in &report.examinations {
        let listing =
            ListingFacts { created_at: Some("2026-01-01T00:00:00Z".into()), downloads: Some(1234), declared: true };
        let facts = UploadFacts { examined_at: Some("2026-01-02T03:04:05Z".into()), listing: Some(listing) };
        report.facts.insert(examination.id().hex(), facts);
    }
    report
}

/// A report of all of them.
pub fn everything() -> Report {
    Report {
        examinations: vec![orthogonalized(), clear(), suspect(), failed(), identical(), hostile(), several()],
        catalogue: catalogue(),
        signatures: crate::signature::Catalogue::builtin().expect("the built-in signatures parse"),
        decisions: BTreeMap::from([(0, vec![decision(Choice::SecondLook)])]),
        ..Report::default()
    }
}
