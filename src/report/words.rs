//! What an examination says, in sentences: written once, laid out by every renderer.
//!
//! The wording is “consistent with …”, with its limits beside it, and never about a person. Every string made here
//! is harmless to show (see [`sanitise`]); escaping for HTML or Markdown is the renderer's.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::examination::{Depth, Examination, Finding, Orthogonalization, Relation, Side, Status, Verdict};
use crate::hub::on_hub;
use crate::ids::{Digest, RepoId};
use crate::index::decision::Decision;
use crate::index::triage::declares;
use crate::judge::verdict::{CONTROLS, CONTROLS_CALLED, CONTROLS_WERE, REVERSED};
use crate::report::{NO_TERMINAL, Report, beside, rates, sanitise};

/// Largest projection consistency of an honest derivative, the median over its writers: a fine-tune with weight decay
/// of a model 128 wide (`tests/real/controls.py`). No two of its matrices lost one direction.
pub const BENIGN_CONSISTENCY: f64 = 0.94;
/// The same in real models, 256 to 576 wide (`tests/real/wheels.py`, `tests/real/hiding.py`).
pub const BENIGN_REAL: f64 = 0.55;

/// What a finding's status means.
pub const PREVIEW: &str =
    "preview: the signature's thresholds may still move; they were set on small models, with the controls in view";

/// From this detection limit on, "clear" by itself would promise too much: edits of this strength are published.
const COARSE: f64 = 0.1;

/// An examination told in sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The verdict in one sentence.
    pub headline: String,
    /// Why: the measurements that decide.
    pub why: Vec<String>,
    /// How sure: false-positive bound and detection limit.
    pub sure: Vec<String>,
    /// What the verdict means.
    pub means: Vec<String>,
    /// What it does not say.
    pub limits: Vec<String>,
    /// What the candidate is to the base.
    pub relation: String,
    /// What the publisher says, and whether the weights bear it out.
    pub claim: Vec<String>,
    /// What was looked at.
    pub coverage: String,
    /// What was not, by reason: the reason, how many tensors, the first of their names. None where the reason counts
    /// them.
    pub not_examined: Vec<(String, usize, Vec<String>)>,
    /// Command lines that make the examination again.
    pub reproduce: Vec<String>,
}

/// Tells an examination.
pub fn tell(examination: &Examination) -> Told {
    Told {
        headline: headline(examination),
        why: why(examination),
        sure: sure(examination),
        means: means(examination),
        limits: limits(examination),
        relation: relation(examination),
        claim: claim(examination),
        coverage: coverage(examination),
        not_examined: not_examined(examination),
        reproduce: reproduce(examination),
    }
}

/// A λ, in as many digits as it can bear.
pub fn strength(lambda: f64) -> String {
    match lambda.abs() {
        size if !size.is_finite() => "unknown".to_owned(),
        0.0 => "0".to_owned(),
        size if size < 0.001 => format!("{lambda:.1e}"),
        size if size < 0.1 => format!("{lambda:.3}"),
        _ => format!("{lambda:.2}"),
    }
}

/// Any measurement with four significant digits at most.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "not measured".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    if (1000.0..1e9).contains(&size) || value.fract() == 0.0 && size < 1000.0 {
        return format!("{value:.0}");
    }
    if !(0.001..1e9).contains(&size) {
        return format!("{value:.2e}");
    }
    format!("{value:.3}")
}

/// A share as percent.
pub fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "an unknown share".to_owned();
    }
    let percent = share * 100.0;
    if percent != 0.0 && percent.abs() < 10.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// A byte count with a binary unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `1 tensor`, `2 tensors`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Columns of running text in a terminal of this width: lines beyond 120 are hard to read.
pub fn prose_width(columns: usize) -> usize {
    if columns == NO_TERMINAL { 100 } else { columns.clamp(40, 120) }
}

/// Enough of an examination's id to name it by.
pub fn short_id(id: &Digest) -> String {
    id.hex().chars().take(12).collect()
}

/// The repository of a side, where it is on a hub.
fn repository(side: &Side) -> Option<RepoId> {
    let (hub, name) = on_hub(&side.source)?;
    Some(RepoId { hub: hub.prefix.to_owned(), name: name.to_owned() })
}

/// The address of a side's page on its hub.
pub fn page(side: &Side) -> Option<String> {
    repository(side)?.page(side.revision.as_deref())
}

/// The owner of a side's repository, where it is on a hub.
pub fn uploader(side: &Side) -> Option<&str> {
    repository(side)?;
    let (_, name) = side.source.split_once(':')?;
    name.split_once('/').map(|(owner, _)| owner)
}

/// A time for people: minutes, UTC.
pub fn when(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// How long ago, in the largest unit that fits.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    match now.as_second().saturating_sub(then.as_second()) {
        seconds if seconds < 60 => "now".to_owned(),
        seconds if seconds < 3_600 => format!("{} min", seconds / 60),
        seconds if seconds < 86_400 => format!("{} h", seconds / 3_600),
        seconds => count((seconds / 86_400).unsigned_abs(), "day", "days"),
    }
}

/// A decision in one sentence: when, who, what and why.
pub fn decided(decision: &Decision) -> String {
    let why =
        if decision.note.is_empty() { "no reason given".to_owned() } else { sanitise::clean(&decision.note, 4000) };
    format!("{}, {}: {}; {why}", when(decision.made_at), sanitise::name(&decision.who), decision.decision.told())
}

/// A source with its commit, as one word.
pub fn side(side: &Side) -> String {
    let source = sanitise::name(&side.source);
    match &side.revision {
        Some(revision) => format!("{source}@{}", sanitise::name(revision)),
        None => source,
    }
}

fn headline(examination: &Examination) -> String {
    if examination.status == Status::Failed {
        let reason = examination.reason.as_deref().unwrap_or("no reason was recorded");
        return format!("Not examined: {}. Nothing is said about these weights.", end(&sanitise::sentence(reason)));
    }
    let sentence = match (examination.verdict, &examination.orthogonalization) {
        _ if is_reversed(examination) => {
            "The candidate has a direction that the base given lacks: were base and candidate swapped, or is the base given the \
             edited one?"
                .to_owned()
        }
        (Verdict::Orthogonalized, Some(o)) => format!(
            "Consistent with weight orthogonalization: {} removed from {} that {} to the residual stream, in {}.",
            directions(o),
            count(o.tensors, "matrix", "matrices"),
            if o.tensors == 1 { "writes" } else { "write" },
            count(o.layers.len() as u64, "layer", "layers"),
        ),
        (Verdict::Orthogonalized, None) => "Consistent with weight orthogonalization.".to_owned(),
        (Verdict::Suspect, _) => {
            "Some signs of weight orthogonalization, not enough of them to call it consistent.".to_owned()
        }
        (Verdict::Clear, _) if same_weights(examination.relation) => {
            "No sign of weight orthogonalization: the weights are the base's own.".to_owned()
        }
        (Verdict::Clear, Some(o)) if known_limit(o) && o.detection_limit >= COARSE => {
            let limit = strength(o.detection_limit);
            format!(
                "Not testable below λ = {limit} in half of the changed writers: no sign of weight orthogonalization at that \
                 strength or above."
            )
        }
        (Verdict::Clear, Some(o)) if known_limit(o) => {
            format!(
                "No sign of weight orthogonalization, clear down to λ = {} in half of the changed writers.",
                strength(o.detection_limit)
            )
        }
        (Verdict::Clear, _) => "No sign of weight orthogonalization.".to_owned(),
        (Verdict::Inconclusive, _) => {
            "It could not be told whether the weights are consistent with orthogonalization.".to_owned()
        }
    };
    if examination.status == Status::Partial { format!("{sentence} Some tensors were not examined.") } else { sentence }
}

fn directions(o: &Orthogonalization) -> String {
    let scope = if o.scope == "per-layer" { " (another one in each layer)" } else { "" };
    match o.directions {
        0 | 1 => format!("one direction{scope}"),
        several => format!("{several} directions{scope}"),
    }
}

/// Whether the relation means that no weight differs beyond the dtype.
fn same_weights(relation: Relation) -> bool {
    matches!(relation, Relation::Identical | Relation::Repackaged | Relation::Recast)
}

fn known_limit(o: &Orthogonalization) -> bool {
    o.detection_limit.is_finite() && o.detection_limit > 0.0
}

fn why(examination: &Examination) -> Vec<String> {
    let mut lines = Vec::new();
    if !examination.because.is_empty() {
        lines.push(as_sentence(&sanitise::sentence(&examination.because)));
    }
    if let Some(imports) = examination.findings.iter().map(listed).find(|listed| !listed.is_empty()) {
        lines.push(format!("Loading the files with a loader that unpickles would run code: {}.", imports.join("; ")));
    }
    if examination.status == Status::Failed {
        return lines;
    }
    let Some(o) = &examination.orthogonalization else { return lines };
    if is_reversed(examination) {
        let shown = match o.consistency <= REVERSED {
            true => format!("Projection consistency c = {:.3}, near -1", o.consistency),
            false => format!("In {} matrices projection consistency is near -1", added(examination)),
        };
        lines.push(format!(
            "{shown}: the change is a removal seen from the wrong side. Compare the other way round, and compare the base given \
             with the publisher's own; if both are right, a direction was amplified."
        ));
        return lines;
    }
    // A number that speaks of removals, beside a verdict of none, would be read as an accusation.
    if examination.verdict == Verdict::Clear {
        if !same_weights(examination.relation) {
            lines.push(clear_in_words(examination, o).to_owned());
        }
        return lines;
    }
    lines.push(format!(
        "Projection consistency c = {:.3} (1: the change is built from the base's own weights along the direction; 0: it has \
         nothing to do with them; -1: the same with the sides swapped; honest training measured so far reached {BENIGN_REAL} in \
         real models and {BENIGN_CONSISTENCY} in tiny ones, where no two matrices lost one direction).",
        o.consistency
    ));
    if o.tensors > 0 {
        lines.push(format!(
            "The removal explains {} of the change in those matrices, in {} coordinates.",
            percent(o.explained),
            sanitise::name(&o.coordinates)
        ));
    }
    if let Some((low, high)) = range(o).filter(|_| o.tensors > 0) {
        lines.push(format!(
            "Recovered strength λ {} (1 removes a direction wholly, 2 reflects it).",
            if strength(low) == strength(high) {
                format!("= {}", strength(low))
            } else {
                format!("from {} to {}", strength(low), strength(high))
            }
        ));
    }
    lines
}

/// Whether the change is a removal seen from the wrong side: c near -1, or more matrices gained a direction than lost
/// one (where an edit reflected a direction, its inverse looks like a removal in those).
pub fn is_reversed(examination: &Examination) -> bool {
    let Some(o) = &examination.orthogonalization else { return false };
    examination.verdict != Verdict::Orthogonalized
        && (o.consistency <= REVERSED || added(examination) > o.tensors as f64)
}

/// Matrices that gained a direction, by the signature that says so.
fn added(examination: &Examination) -> f64 {
    let amplified = examination.findings.iter().find(|finding| finding.signature == "direction-amplified");
    amplified.and_then(|finding| finding.evidence["addition.tensors"]["value"].as_f64()).unwrap_or(0.0)
}

/// The evidence where it speaks of a removal: a writer fits one, and not from the wrong side.
pub fn removal(examination: &Examination) -> Option<&Orthogonalization> {
    examination.orthogonalization.as_ref().filter(|o| o.tensors > 0 && !is_reversed(examination))
}

/// What the measurements of a clear candidate say, without the number that is for removals.
fn clear_in_words(examination: &Examination, o: &Orthogonalization) -> &'static str {
    // What a measured look-alike is called in the catalogue.
    const EXCUSES: &[&str] = &["channel-zeroed", "component-dropped", "norm-folding", "rescale", "row-rescale"];
    if examination.findings.iter().any(|finding| EXCUSES.contains(&finding.signature.as_str())) {
        "What changed is made of the base's own weights, and a benign change that was measured explains all of it (see the \
         signatures that hold)."
    } else if o.consistency > BENIGN_REAL {
        "What changed leans on the base's own weights matrix by matrix, as hard training of narrow matrices and a reduced rank do, \
         and no direction was lost by two of them."
    } else {
        "What changed is not made of the base's own weights along a direction, as a removal would be."
    }
}

/// Smallest and largest λ̂ of the writers that changed.
pub fn range(o: &Orthogonalization) -> Option<(f64, f64)> {
    let changed = o.strengths();
    Some((*changed.first()?, *changed.last()?))
}

/// The upper 95 % limit of false positives: that of the controls, or what chance alone gives where that is more.
pub fn false_positive_limit(o: &Orthogonalization) -> Option<f64> {
    (o.p_value > 0.0 && o.p_value <= 1.0).then(|| o.p_value.max(rates::false_positive_limit()))
}

fn sure(examination: &Examination) -> Vec<String> {
    let mut lines = Vec::new();
    if examination.status == Status::Failed {
        return lines;
    }
    let Some(o) = &examination.orthogonalization else {
        if examination.verdict == Verdict::Clear && same_weights(examination.relation) {
            lines.push("No writer differs from the base, so nothing was removed at any strength.".to_owned());
        } else {
            lines.push("No false-positive bound and no detection limit: writers were not measured.".to_owned());
        }
        return lines;
    };
    if matches!(examination.verdict, Verdict::Orthogonalized | Verdict::Suspect) && !is_reversed(examination) {
        match false_positive_limit(o).map(|limit| limit.min(rates::false_positive_limit())) {
            Some(limit) => {
                lines.push(format!(
                    "False positives: {CONTROLS_CALLED} of {CONTROLS} honest controls was called orthogonalized; the exact upper 95 % \
                     limit of that rate is {limit:.4}, 1 honest derivative in {:.0}.",
                    1.0 / limit
                ));
                lines.push(format!("The controls were {CONTROLS_WERE}."));
                if o.p_value > limit {
                    lines.push(format!("Rounding alone would give this consistency with p = {}.", number(o.p_value)));
                }
            }
            None => lines.push("False positives: no limit is known (no calibration applies).".to_owned()),
        }
    }
    lines.push(match (known_limit(o), examination.verdict) {
        (true, Verdict::Clear) => format!(
            "Detection limit: half of the changed writers would show a removal of λ = {}; a weaker one would not have been \
             seen in them.",
            strength(o.detection_limit)
        ),
        (true, _) => {
            format!("Detection limit: a removal weaker than λ = {} would not be seen.", strength(o.detection_limit))
        }
        (false, Verdict::Clear) if same_weights(examination.relation) => {
            "Detection limit: none needed, no writer differs from the base.".to_owned()
        }
        (false, _) => "Detection limit: not known.".to_owned(),
    });
    lines
}

fn means(examination: &Examination) -> Vec<String> {
    if examination.status == Status::Failed {
        return vec!["Unreadable is not clean: the upload should count as not examined, not as passed.".to_owned()];
    }
    let line = match examination.verdict {
        Verdict::Orthogonalized | Verdict::Suspect if is_reversed(examination) => {
            "Nothing is said against the candidate before it is known which of the two is the original."
        }
        Verdict::Orthogonalized => {
            "Compared with this base, the model can no longer write (or writes less) along the recovered direction. \
             Published edits of this form usually take out a direction found to go with refusals (“abliteration”)."
        }
        Verdict::Suspect => "Worth a second look by a person; by itself no ground for action.",
        Verdict::Clear => "No direction was found removed from the matrices that were compared.",
        Verdict::Inconclusive => "Neither a finding nor an all-clear.",
    };
    vec![line.to_owned()]
}

fn limits(examination: &Examination) -> Vec<String> {
    let mut lines: Vec<&str> = Vec::new();
    if examination.status == Status::Failed {
        return vec!["Not being able to read an upload is no sign against it either.".to_owned()];
    }
    match examination.verdict {
        Verdict::Orthogonalized | Verdict::Suspect => {
            lines.push(
                "A removed direction need not be refusal: weights show that something was removed, not what it meant.",
            );
            lines.push("It says nothing about who made the edit or why; such edits are often declared openly.");
        }
        Verdict::Clear => lines.push(
            "Clear never means safe: training can remove refusals without any projection, and this looks for \
             projections only.",
        ),
        Verdict::Inconclusive => lines.push("Not being able to tell is not a sign in either direction."),
    }
    lines.push(
        "The base was taken as given: had it been edited in the same way itself, this comparison would not show it.",
    );
    match examination.depth {
        Depth::Hashes => lines.push("Only file digests were compared; no weight was read."),
        Depth::Screen => lines.push("Only headers and a few rows were read; a full comparison may say more."),
        Depth::Full => {}
    }
    // First what a reader is most likely to overlook.
    beside::caution(examination).into_iter().chain(lines.into_iter().map(str::to_owned)).collect()
}

fn relation(examination: &Examination) -> String {
    let explanation = match examination.relation {
        Relation::Identical => "same tensors, same bits, in the same weight files",
        Relation::Repackaged => "the base's tensors in other files or under other names",
        Relation::Recast => "the base in another float type, bit for bit",
        Relation::Quantized => "the base through a quantiser",
        Relation::LowRankEdit => "a change of low rank in several matrices",
        Relation::Edited => "few tensors changed, or a change made from the weights themselves",
        Relation::FineTuned => "trained further from the base",
        Relation::Merged => "built from several models",
        Relation::Adapter => "an adapter to the base, not whole weights",
        Relation::Unrelated => "same shapes, no kinship with the base",
        Relation::Incomparable => "nothing to compare",
    };
    let rank = examination.rank.map(|rank| format!(", rank {rank}")).unwrap_or_default();
    format!("{}: {explanation}{rank}", examination.relation.as_str())
}

/// The relation that a publisher names, in the hubs' words, as a noun with its article.
fn claimed_as(relation: &str) -> String {
    match relation {
        "finetune" | "fine-tuned" | "finetuned" => "a fine-tune".to_owned(),
        "quantized" | "quantization" => "a quantisation".to_owned(),
        "adapter" => "an adapter".to_owned(),
        "merge" | "merged" => "a merge".to_owned(),
        other => format!("“{}”", sanitise::name(other)),
    }
}

fn claim(examination: &Examination) -> Vec<String> {
    let Some(claim) = &examination.claim else {
        return vec!["The publisher claims no base.".to_owned()];
    };
    let mut lines = Vec::new();
    let claimed = match (&claim.base, &claim.relation) {
        (Some(base), Some(relation)) => {
            format!("The publisher claims {} of {}", claimed_as(relation), sanitise::name(base))
        }
        (Some(base), None) => format!("The publisher claims the base {}", sanitise::name(base)),
        (None, _) => "The publisher claims no base".to_owned(),
    };
    lines.push(match claim.holds {
        Some(true) => {
            format!("{claimed}; the weights do derive from that base (what was done to them is the verdict's matter).")
        }
        Some(false) => format!("{claimed}; the weights do not bear it out."),
        None if claim.base.is_some() => format!("{claimed}; the weights could not settle it."),
        None => format!("{claimed}."),
    });
    for evidence in claim.evidence.iter().take(8) {
        lines.push(format!("{}: {}", sanitise::name(&evidence.from), sanitise::name(&evidence.says)));
    }
    if claim.evidence.len() > 8 {
        lines.push(format!("and {} more", claim.evidence.len() - 8));
    }
    lines
}

fn coverage(examination: &Examination) -> String {
    let c = &examination.coverage;
    if c.tensors == 0 && c.compared == 0 {
        return format!("No tensor was compared; {} of weights read", bytes(c.bytes_read));
    }
    let depth = match examination.depth {
        Depth::Hashes => "file digests only",
        Depth::Screen => "headers and some rows",
        Depth::Full => "all weights that the verdict rests on",
    };
    let missing = c.not_examined.iter().filter(|one| one.tensor != NOTE).count();
    let not_examined = if missing == 0 { String::new() } else { format!(", {missing} not examined") };
    format!(
        "{} of {} compared, {} of them bit-identical{not_examined}; {} of weights read (depth: {depth})",
        c.compared,
        count(c.tensors, "tensor", "tensors"),
        c.identical,
        bytes(c.bytes_read)
    )
}

/// The name that stands for no tensor in particular: its reason speaks of many, and counts them itself.
const NOTE: &str = "*";

fn not_examined(examination: &Examination) -> Vec<(String, usize, Vec<String>)> {
    let mut reasons: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for missing in &examination.coverage.not_examined {
        let (number, names) = reasons.entry(sanitise::sentence(&missing.reason)).or_default();
        if missing.tensor == NOTE {
            continue;
        }
        *number += 1;
        if names.len() < 3 {
            names.push(sanitise::name(&missing.tensor));
        }
    }
    let mut list: Vec<_> = reasons.into_iter().map(|(reason, (number, names))| (reason, number, names)).collect();
    // The commonest reason first; equal ones stay in the order of their words.
    list.sort_by_key(|(_, number, _)| std::cmp::Reverse(*number));
    list
}

fn reproduce(examination: &Examination) -> Vec<String> {
    let (base, candidate) = (&examination.base, &examination.candidate);
    if candidate.source.is_empty() {
        return Vec::new();
    }
    // Digests that no hub stated were asked for.
    let digests = match repository(candidate).is_none() && candidate.digest.is_some() {
        true => " --digests",
        false => "",
    };
    let command = if repository(candidate).is_some() || repository(base).is_some() || base.source.is_empty() {
        let base = if base.source.is_empty() { String::new() } else { format!(" --base {}", quoted(&located(base))) };
        format!("orthoscope scan {}{base}{digests}", quoted(&located(candidate)))
    } else {
        format!("orthoscope compare {} {}{digests}", quoted(&base.source), quoted(&candidate.source))
    };
    let version = sanitise::name(&examination.tool.version);
    vec![format!("# with orthoscope {version}, built from its sources: cargo install --path ."), command]
}

/// What a report needs to stand alone: ids, dates, where the candidate is from, with a label each.
pub fn about(examination: &Examination, report: &Report) -> Vec<(&'static str, String)> {
    let (id, facts) = report.identified(examination);
    let (base, candidate) = (&examination.base, &examination.candidate);
    let mut lines = vec![("examination", id.hex())];
    lines.push(("examined", facts.examined_at.unwrap_or_else(|| "when is not recorded".to_owned())));
    lines.extend(report.commit.map(|commit| ("written by", format!("orthoscope built from commit {commit}"))));
    for (label, side) in [("candidate at", candidate), ("base at", base)] {
        // The commit stands beside the name already, and would break the address where a line ends.
        lines.extend(repository(side).and_then(|repository| repository.page(None)).map(|page| (label, page)));
    }
    if let Some(owner) = uploader(candidate) {
        lines.push(("uploader", sanitise::name(owner)));
        let says = "a word such as “abliterated”";
        let declared = match &facts.listing {
            Some(listing) => {
                lines.extend(listing.created_at.clone().map(|created| ("made", created)));
                lines.extend(listing.downloads.map(|downloads| ("downloads", format!("{downloads} in 30 days"))));
                match listing.declared {
                    true => format!("yes: its name or its tags hold {says}"),
                    false => format!("no: neither its name nor its tags hold {says}"),
                }
            }
            None => match declares(&candidate.source, &[]) {
                true => format!("yes: its name holds {says}"),
                false => format!("its name does not hold {says}; its tags are not recorded"),
            },
        };
        lines.push(("declared", declared));
    }
    let named = |side: &Side| side.digest.is_some() || side.revision.is_some();
    let read = examination.status != Status::Failed;
    if read && !(named(base) && named(candidate)) {
        lines.push((
            "digests",
            "not recorded of both sides: this report cannot be held against the files later. Examine again with --digests to \
             record them"
                .to_owned(),
        ));
    }
    lines
}

/// The words of a report that its reader may not know, and what they mean.
pub fn glossary(examination: &Examination) -> Vec<(&'static str, &'static str)> {
    let mut words = Vec::new();
    if examination.orthogonalization.is_some() {
        words.extend([
            ("writer", "a matrix whose output is added to the residual stream (o_proj, down_proj)"),
            ("reader", "a matrix whose input is the residual stream (q_proj, up_proj)"),
            ("λ", "how much of a direction is gone from a writer: 0 nothing, 1 all, 2 reflected, below 0 amplified"),
            ("detection limit", "the smallest λ that half of the changed writers would have shown"),
        ]);
        if examination.verdict != Verdict::Clear {
            words.extend([
                (
                    "consistency, c",
                    "cosine of the change with what a removal would be, measured on data that did not choose the direction",
                ),
                ("raw, row-normalised", "whether the removal was done on the weights or on rows brought to length 1"),
            ]);
        }
    }
    if examination.findings.iter().any(|finding| finding.status == "preview") {
        words.push(("status", PREVIEW));
    }
    words
}

fn located(side: &Side) -> String {
    match &side.revision {
        // A path has none that it could be asked by.
        Some(revision) if repository(side).is_some() => format!("{}@{revision}", side.source),
        _ => side.source.clone(),
    }
}

/// One word for a POSIX shell, harmless to show. A name that had to be changed to be shown cannot be copied, so it is
/// quoted as shown and will simply not be found.
pub fn quoted(text: &str) -> String {
    let text = sanitise::clean(text, 400);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A clause as a sentence: a capital at its start, a full stop at its end.
fn as_sentence(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", end(rest.as_str()))
}

/// A sentence without its closing full stop, to be put into another.
fn end(text: &str) -> &str {
    text.strip_suffix('.').unwrap_or(text)
}
/// What a finding's evidence lists in words: the imports that loading the files would run.
pub fn listed(finding: &Finding) -> Vec<String> {
    let imports = finding.evidence.get("imports").and_then(serde_json::Value::as_array);
    imports.into_iter().flatten().filter_map(serde_json::Value::as_str).map(sanitise::sentence).collect()
}
