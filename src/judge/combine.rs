//! One verdict for a repository out of those on the checkpoints that it holds.
//!
//! The gravest one decides: an edit in any of the files that people may load is an edit of the upload, and a file that
//! could not be read keeps the whole from being called clear.

use super::relation;
use crate::examination::surroundings;
use crate::examination::{Examination, Finding, NotExamined, Side, Status, Verdict};
use crate::judge::account::{Account, withhold};

/// Puts the examinations of a repository's variants, with their sides and claims, together and has them judged.
/// `candidate` is the repository as a whole, `account` what else it holds. `None` for none at all.
pub fn combine(
    candidate: Side,
    mut variants: Vec<Examination>,
    account: Account,
    judge: impl Fn(&mut Examination),
) -> Option<Examination> {
    if variants.len() < 2 {
        let mut only = variants.pop()?;
        // Findings are known by all that was and was not examined.
        account.enter(&mut only);
        judge(&mut only);
        return Some(only);
    }
    variants.iter_mut().for_each(&judge);
    let mut whole = variants.first()?.clone();
    whole.candidate = candidate;
    whole.variants = variants;
    whole.status = status(&whole.variants);
    whole.reason = reason(&whole.variants);
    whole.coverage.not_examined.clear();
    account.enter(&mut whole);
    decide(&mut whole);
    Some(whole)
}

/// Takes over what decides from the variants, after they were judged. What was read and what was not is no matter of
/// judging: status and reason stay.
pub fn decide(whole: &mut Examination) {
    let Some(decisive) = whole.variants.iter().min_by_key(|variant| gravity(variant)) else { return };
    let decisive = decisive.clone();
    let variants = &whole.variants;
    whole.tool.clone_from(&decisive.tool);
    whole.depth = decisive.depth;
    if let Some(claim) = &mut whole.claim {
        claim.holds = relation::any_bears_out(variants);
    }
    // What concerns the repository and none of its variants.
    let own: Vec<NotExamined> = (whole.coverage.not_examined.iter())
        .filter(|one| !variants.iter().any(|variant| variant.coverage.not_examined.contains(one)))
        .cloned()
        .collect();
    whole.coverage = decisive.coverage.clone();
    whole.coverage.not_examined.extend(own);
    whole.coverage.not_examined.sort();
    whole.coverage.not_examined.dedup();
    whole.coverage.bytes_read = variants.iter().map(|one| one.coverage.bytes_read).fold(0, u64::saturating_add);
    whole.relation = decisive.relation;
    whole.rank = decisive.rank;
    whole.verdict = decisive.verdict;
    whole.because = because(&decisive, variants);
    whole.orthogonalization.clone_from(&decisive.orthogonalization);
    whole.findings = findings(&decisive, variants);
    whole.anomalies = variants.iter().flat_map(|variant| &variant.anomalies).cloned().collect();
    whole.anomalies.sort();
    whole.anomalies.dedup();
    whole.surroundings =
        surroundings::merge(variants.iter().map(|variant| (name(variant), variant.surroundings.as_slice())));
    whole.profile.clone_from(&decisive.profile);
    withhold(whole);
}

fn name(variant: &Examination) -> &str {
    variant.candidate.variant.as_deref().unwrap_or_default()
}

/// The smaller, the graver; of equals the first decides.
fn gravity(variant: &Examination) -> u8 {
    match variant.verdict {
        Verdict::Orthogonalized => 0,
        Verdict::Suspect => 1,
        Verdict::Inconclusive => 2,
        Verdict::Clear => 3,
    }
}

fn status(variants: &[Examination]) -> Status {
    let all = |status| variants.iter().all(|variant| variant.status == status);
    [Status::Complete, Status::Failed].into_iter().find(|status| all(*status)).unwrap_or(Status::Partial)
}

/// What is missing, variant by variant.
fn reason(variants: &[Examination]) -> Option<String> {
    let reasons: Vec<String> = variants
        .iter()
        .filter_map(|variant| Some(format!("{}: {}", name(variant), variant.reason.as_deref()?)))
        .collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// The decisive variant's reason, and how the others came out.
fn because(decisive: &Examination, variants: &[Examination]) -> String {
    let counted = |verdict: Verdict, word: &str| {
        let count = variants.iter().filter(|variant| variant.verdict == verdict).count();
        (count > 0).then(|| format!("{count} {word}"))
    };
    let counts: Vec<String> = [
        counted(Verdict::Orthogonalized, "orthogonalized"),
        counted(Verdict::Suspect, "suspect"),
        counted(Verdict::Inconclusive, "inconclusive"),
        counted(Verdict::Clear, "clear"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (own, total) = (&decisive.because, variants.len());
    format!("{own}. This is of {}, one of {total} variants examined: {}", name(decisive), counts.join(", "))
}

/// What was found in the decisive variant, and what only others have.
fn findings(decisive: &Examination, variants: &[Examination]) -> Vec<Finding> {
    let mut findings = decisive.findings.clone();
    for finding in variants.iter().flat_map(|variant| &variant.findings) {
        if !findings.iter().any(|known| known.signature == finding.signature) {
            findings.push(finding.clone());
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examination::Severity;

    fn variant(name: &str, verdict: Verdict, status: Status) -> Examination {
        let side = Side { variant: Some(name.to_owned()), ..Side::default() };
        let json = serde_json::json!({
            "schema": "s", "tool": {"version": "1", "catalogue": "c"}, "base": Side::default(), "candidate": side,
            "status": status, "reason": (status == Status::Failed).then_some("io: gone"), "depth": "full",
            "coverage": {"tensors": 1, "compared": 1, "identical": 0, "bytes_read": 10, "not_examined": []},
            "relation": "edited", "verdict": verdict, "because": format!("of {name}"), "orthogonalization": null,
            "findings": [], "anomalies": [], "claim": null,
        });
        serde_json::from_value(json).unwrap()
    }

    fn finding(signature: &str) -> Finding {
        Finding {
            id: signature.to_owned(),
            signature: signature.to_owned(),
            signature_hash: String::new(),
            severity: Severity::High,
            status: "preview".to_owned(),
            evidence: serde_json::json!({}),
        }
    }

    fn told(name: &str) -> Account {
        let mut account = Account::default();
        account.told(name, "the same bytes as another");
        account
    }

    #[test]
    fn the_gravest_variant_decides_and_the_others_are_counted() {
        let mut edited = variant("Q8_0", Verdict::Orthogonalized, Status::Complete);
        edited.findings = vec![finding("a")];
        let mut plain = variant("model.safetensors", Verdict::Clear, Status::Complete);
        plain.findings = vec![finding("b"), finding("a")];
        let mut whole = combine(Side::default(), vec![plain, edited], told("copy"), |_| ()).unwrap();
        assert_eq!(whole.coverage.not_examined[0].tensor, "copy");
        decide(&mut whole);
        assert_eq!(whole.coverage.not_examined.len(), 1, "once, however often it is judged");
        assert_eq!((whole.verdict, whole.status), (Verdict::Orthogonalized, Status::Complete));
        assert_eq!(whole.because, "of Q8_0. This is of Q8_0, one of 2 variants examined: 1 orthogonalized, 1 clear");
        let signatures: Vec<&str> = whole.findings.iter().map(|finding| finding.signature.as_str()).collect();
        assert_eq!(signatures, ["a", "b"]);
        assert_eq!(whole.coverage.bytes_read, 20);
    }

    #[test]
    fn a_file_that_was_not_compared_keeps_clear_variants_from_being_clear() {
        let parts =
            vec![variant("a", Verdict::Clear, Status::Complete), variant("b", Verdict::Clear, Status::Complete)];
        let mut account = Account::default();
        account.gap("tf_model.h5", "not read");
        let mut whole = combine(Side::default(), parts, account, |_| ()).unwrap();
        decide(&mut whole);
        assert_eq!((whole.verdict, whole.status), (Verdict::Inconclusive, Status::Partial));
        assert!(whole.because.contains("tf_model.h5"), "{}", whole.because);
    }

    #[test]
    fn what_could_not_be_read_is_never_clear() {
        let parts = vec![
            variant("model.safetensors", Verdict::Clear, Status::Complete),
            variant("pytorch_model.bin", Verdict::Inconclusive, Status::Failed),
        ];
        let whole = combine(Side::default(), parts, Account::default(), |_| ()).unwrap();
        assert_eq!((whole.verdict, whole.status), (Verdict::Inconclusive, Status::Partial));
        assert_eq!(whole.reason.as_deref(), Some("pytorch_model.bin: io: gone"));
    }

    #[test]
    fn judging_again_keeps_the_id_whichever_variant_decides() {
        let parts =
            vec![variant("a", Verdict::Clear, Status::Complete), variant("b", Verdict::Clear, Status::Complete)];
        let mut whole = combine(Side::default(), parts, Account::default(), |_| ()).unwrap();
        let id = whole.id();
        whole.variants[1].verdict = Verdict::Orthogonalized;
        decide(&mut whole);
        assert_eq!((whole.verdict, whole.id()), (Verdict::Orthogonalized, id));
    }

    #[test]
    fn a_single_variant_is_left_alone() {
        let one = variant("a", Verdict::Clear, Status::Complete);
        assert_eq!(combine(Side::default(), vec![one.clone()], Account::default(), |_| ()), Some(one));
        assert_eq!(combine(Side::default(), Vec::new(), Account::default(), |_| ()), None);
    }
}
