//! `orthoscope rejudge`: judges the index again after the signatures have changed, without fetching anything.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::ExitStatus;
use crate::error::{Error, ErrorKind, Result};
use crate::examination::Examination;
use crate::index::Index;
use crate::signature::Catalogue;

/// Judge stored measurements again with today's signatures, without fetching anything.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  orthoscope rejudge\n  orthoscope rejudge --signatures my-signatures --all")]
pub struct RejudgeArgs {
    /// A folder with signatures of your own, used beside the built-in ones.
    #[arg(long, value_name = "DIR")]
    pub signatures: Option<PathBuf>,
    /// Also what these very signatures have judged before.
    #[arg(long)]
    pub all: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs `orthoscope rejudge` on the index at `index`. `judge` gives an examination back judged by the catalogue; `seen` is
/// told after each batch how many were judged, and stops the work by giving `false`.
pub fn run(
    args: &RejudgeArgs,
    index: &Path,
    now: Timestamp,
    mut judge: impl FnMut(&Catalogue, Examination) -> Result<Examination>,
    seen: impl FnMut(u64) -> bool,
    out: &mut dyn Write,
) -> Result<ExitStatus> {
    let catalogue = args.signatures.as_deref().map_or_else(Catalogue::builtin, Catalogue::with_folder)?;
    if !index.exists() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("judging index {} again: there is no such file; name another with --index", index.display()),
        ));
    }
    let mut index = Index::open(index)?;
    let outcome = index.rejudge(&catalogue, args.all, now, |examination| judge(&catalogue, examination), seen)?;
    let mut text = String::new();
    if args.json {
        let outcome = json!({ "catalogue": catalogue.hash(), "outcome": outcome });
        text.push_str(&outcome.to_string());
        text.push('\n');
    } else {
        for id in &outcome.changed {
            text.push_str(&format!("judged differently: {id}\n"));
        }
        for (id, reason) in &outcome.failed {
            text.push_str(&format!("not judged: {id}: {reason}\n"));
        }
        text.push_str(&format!(
            "{} judged again, {} differently, {} without measurements, {} failed; catalogue {}\n",
            outcome.judged,
            outcome.changed.len(),
            outcome.without_measurements,
            outcome.failed.len(),
            catalogue.hash()
        ));
    }
    out.write_all(text.as_bytes()).map_err(|error| Error::io("writing the answer", error))?;
    Ok(if outcome.failed.is_empty() { ExitStatus::Success } else { ExitStatus::Incomplete })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examination::Verdict;
    use crate::index::samples::{at, examination};

    #[test]
    fn what_changed_is_told_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let args = RejudgeArgs { signatures: None, all: false, json: false };
        let mut out = Vec::new();
        let judge = |_: &Catalogue, mut one: Examination| {
            one.verdict = Verdict::Suspect;
            one.because = "judged in a test".to_owned();
            Ok(one)
        };
        let error = run(&args, &path, at(9), judge, |_| true, &mut out).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        let mut index = Index::open(&path).unwrap();
        let one = (0..).map(examination).find(|one| one.profile.is_some()).unwrap();
        let id = index.record(&one, at(0)).unwrap().id;
        drop(index);
        assert_eq!(run(&args, &path, at(9), judge, |_| true, &mut out).unwrap(), ExitStatus::Success);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(&format!("judged differently: {id}\n1 judged again, 1 differently")), "{text}");
        let index = Index::open_read_only(&path).unwrap();
        assert_eq!(index.get(&id.hex()).unwrap().unwrap().examination.verdict, Verdict::Suspect);
        assert_eq!(index.past_judgements(&id.hex()).unwrap().len(), 1);
    }
}
