//! Examinations made up from a seed: every field in every state, with the strings that a hostile hub would send.

use fastrand::Rng;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::tensors::{FIT_NUMBERS, NUMBERS};
use crate::arch::{Axis, Kind, Role};
use crate::checkpoint::Anomaly;
use crate::examination::surroundings::{Concern, Surrounding, SurroundingState};
use crate::examination::{
    Claim, ClaimEvidence, Coverage, Depth, Examination, FileDigest, Finding, NotExamined, Orthogonalization, RELATIONS,
    SCHEMA, STATUSES, Severity, Side, Strength, Tool, VERDICTS,
};
use crate::ids::Digest;
use crate::profile::names::MEASUREMENTS;
use crate::profile::{Numbers, Profile, Projection, Sameness, TensorMeasurement};
use crate::signature::finding_id;

pub(crate) const DEPTHS: [Depth; 3] = [Depth::Hashes, Depth::Screen, Depth::Full];
pub(crate) const SEVERITIES: [Severity; 4] = [Severity::Info, Severity::Low, Severity::Medium, Severity::High];
const KINDS: [Kind; 8] =
    [Kind::Writer, Kind::Reader, Kind::Embedding, Kind::Head, Kind::Norm, Kind::Router, Kind::Bias, Kind::Other];
const STRINGS: [&str; 10] = [
    "",
    "model.layers.3.mlp.down_proj.weight",
    "say \"1.5\" and 'two'",
    "<script>alert(1)</script>",
    "\u{202e}gnp.exe",
    "a\u{0}b\n\t\\",
    "日本語 λ",
    "%_\\ %",
    "; DROP TABLE examination; --",
    "=1+1",
];

/// Times of the tests, in seconds.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

struct Maker {
    rng: Rng,
}

impl Maker {
    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.usize(..all.len())]
    }

    fn text(&mut self) -> String {
        if self.rng.bool() { self.one(&STRINGS).to_owned() } else { format!("name-{}", self.rng.u16(..)) }
    }

    fn number(&mut self) -> f64 {
        match self.rng.u8(..8) {
            0 => 0.0,
            1 => -0.0,
            2 => 1.0,
            3 => f64::INFINITY,
            4 => 5e-324,
            _ => self.finite(),
        }
    }

    fn finite(&mut self) -> f64 {
        let number = f64::from_bits(self.rng.u64(..));
        if number.is_finite() { number } else { 0.1 }
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.rng.bool().then(|| make(self))
    }

    fn many<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.rng.usize(..=most)).map(|_| make(self)).collect()
    }

    fn count(&mut self) -> u64 {
        self.rng.u64(..) >> self.rng.u32(1..64)
    }

    fn side(&mut self) -> Side {
        Side {
            source: match self.rng.u8(..3) {
                0 => format!("hf:owner-{}/model-{}", self.rng.u8(..5), self.rng.u8(..5)),
                1 => format!("ms:{}", self.text()),
                _ => self.text(),
            },
            revision: self.maybe(Self::text),
            digest: self.maybe(Self::text),
            files: self.many(3, |m| FileDigest { name: m.text(), bytes: m.count(), sha256: m.maybe(Self::text) }),
            format: self.maybe(Self::text),
            variant: None,
        }
    }

    fn evidence(&mut self) -> Value {
        let name = self.text();
        json!({ "value": self.finite(), name: [self.finite(), null_or(self.maybe(Self::text))], "n": self.count(), "min": 3.0 })
    }

    fn orthogonalization(&mut self) -> Orthogonalization {
        Orthogonalization {
            p_value: self.number(),
            consistency: self.number(),
            explained: self.number(),
            coordinates: self.text(),
            directions: self.rng.u32(..),
            scope: self.text(),
            tensors: self.count(),
            layers: self.many(4, |m| m.rng.u32(..)),
            strength: self.many(5, |m| Strength {
                layer: m.rng.u32(..),
                module: m.text(),
                expert: m.maybe(|m| m.rng.u32(..)),
                lambda: m.number(),
                stderr: m.number(),
            }),
            detection_limit: self.number(),
            recipe: self.many(3, Self::text),
        }
    }

    fn projection(&mut self) -> Projection {
        let mut fit = Projection {
            sibling_agreement: self.maybe(Self::number),
            directions: self.rng.u32(..),
            shared_strength: self.maybe(Self::number),
            shared_consistency: self.maybe(Self::number),
            alone: self.rng.bool(),
            fits: self.rng.bool(),
            ..Projection::default()
        };
        FIT_NUMBERS.iter().for_each(|(_, _, set)| set(&mut fit, self.number()));
        fit
    }

    fn tensor(&mut self) -> TensorMeasurement {
        let role = Role {
            kind: self.one(&KINDS),
            module: self.text(),
            layer: self.maybe(|m| m.rng.u32(..)),
            expert: self.maybe(|m| m.rng.u32(..)),
            residual: self.maybe(|m| m.one(&[Axis::Rows, Axis::Columns])),
        };
        let sameness = self.one(&[Sameness::Identical, Sameness::Recast, Sameness::Requantized, Sameness::Changed]);
        let mut tensor = TensorMeasurement {
            shape: [self.count(), self.count()],
            base_dtype: self.text(),
            candidate_dtype: self.text(),
            not_finite: [self.count(), self.count()],
            scale_explained: [self.number(), self.number(), self.number()],
            norm_drift: [self.number(), self.number()],
            spectrum: self.many(8, Self::finite),
            above_noise: self.rng.u32(..),
            values_known: self.rng.u32(..),
            projection: self.maybe(Self::projection),
            ..TensorMeasurement::same(self.text(), role, sameness)
        };
        NUMBERS.iter().for_each(|(_, _, set)| set(&mut tensor, self.number()));
        tensor
    }

    fn profile(&mut self) -> Profile {
        let mut model = Numbers::default();
        for measurement in MEASUREMENTS {
            if self.rng.bool() {
                model.put(*measurement, f64::from(self.rng.f32()));
            }
        }
        Profile { model, tensors: self.many(6, Self::tensor) }
    }
}

/// An examination of a repository with three variants.
pub(crate) fn with_variants(seed: u64) -> Examination {
    let variants = (0..3).map(|number| {
        let mut variant = examination(seed.wrapping_mul(3).wrapping_add(number));
        variant.candidate.variant = Some(format!("Q{number}_0"));
        variant
    });
    crate::judge::combine::combine(examination(seed).candidate, variants.collect(), Default::default(), |_| ())
        .unwrap_or_else(|| examination(seed))
}

fn null_or(text: Option<String>) -> Value {
    text.map_or(Value::Null, Value::from)
}

/// The examination of that seed.
pub(crate) fn examination(seed: u64) -> Examination {
    let mut m = Maker { rng: Rng::with_seed(seed) };
    let mut examination = Examination {
        schema: SCHEMA.to_owned(),
        tool: Tool { version: "0.1.0".to_owned(), catalogue: Digest::of(&[m.rng.u8(..3)]).to_string() },
        base: m.side(),
        candidate: m.side(),
        status: m.one(&STATUSES),
        reason: m.maybe(Maker::text),
        depth: m.one(&DEPTHS),
        coverage: Coverage {
            tensors: m.count(),
            compared: m.count(),
            identical: m.count(),
            bytes_read: m.count(),
            not_examined: m.many(3, |m| NotExamined { tensor: m.text(), reason: m.text() }),
        },
        relation: m.one(&RELATIONS),
        rank: m.maybe(|m| m.rng.u32(..)),
        verdict: m.one(&VERDICTS),
        because: m.text(),
        orthogonalization: m.maybe(Maker::orthogonalization),
        findings: Vec::new(),
        anomalies: m.many(3, |m| Anomaly {
            kind: m.text(),
            file: m.text(),
            tensor: m.maybe(Maker::text),
            detail: m.text(),
        }),
        claim: m.maybe(|m| Claim {
            base: m.maybe(Maker::text),
            relation: m.maybe(Maker::text),
            evidence: m.many(3, |m| ClaimEvidence { from: m.text(), says: m.text() }),
            holds: m.maybe(|m| m.rng.bool()),
        }),
        profile: m.maybe(Maker::profile),
        surroundings: m.many(2, |m| Surrounding {
            concern: m.one(&Concern::ALL),
            state: m.one(&[SurroundingState::Same, SurroundingState::Differs, SurroundingState::NotCompared]),
            details: m.many(2, Maker::text),
        }),
        variants: Vec::new(),
    };
    let id = examination.id();
    examination.findings = m.many(3, |m| {
        let signature = m.one(&["out-rank1-global", "row-scaled", "fine-tune"]).to_owned();
        Finding {
            id: finding_id(&id, &signature),
            signature,
            signature_hash: m.text(),
            severity: m.one(&SEVERITIES),
            status: "preview".to_owned(),
            evidence: m.evidence(),
        }
    });
    examination
}
