//! The account of what was not compared: whatever a loader would load and orthoscope did not look at makes an
//! examination partial, and a partial one is never clear. This is the only place that says so.
//!
//! An entry is either a *gap* (a loader would load it: a tensor without a partner, a file that could not be read, a
//! checkpoint beside the one examined that was not shown to be a copy) or merely *told* (tied heads, rotary tables, a
//! vision tower that the other side lacks).

use crate::examination::{Examination, NotExamined, Status, Verdict};
use crate::limits::MAX_NOT_EXAMINED;
use crate::pair::{Pairing, Unpaired};

/// Why a first look at hashes or rows lists everything else: that is its depth, and no gap.
const EVERYTHING: &str = "*";

/// What was not compared, in two heaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    gaps: Vec<NotExamined>,
    told: Vec<NotExamined>,
}

impl Account {
    /// The tensors that pairing left over on both sides.
    pub fn of_pairing(pairing: &Pairing) -> Self {
        let mut account = Self::default();
        for (side, list) in
            [("only in the base", &pairing.only_base), ("only in the candidate", &pairing.only_candidate)]
        {
            for unpaired in list {
                account.unpaired(unpaired, format!("{side}: {}", unpaired.reason));
            }
        }
        account
    }

    /// A tensor that was not compared, with the reason in full.
    pub fn unpaired(&mut self, unpaired: &Unpaired, reason: String) {
        let heap = if unpaired.loaded { &mut self.gaps } else { &mut self.told };
        heap.push(NotExamined { tensor: unpaired.tensor.clone(), reason });
    }

    /// A tensor or file that a loader would load, and why it was not compared.
    pub fn gap(&mut self, what: impl Into<String>, reason: impl Into<String>) {
        self.gaps.push(NotExamined { tensor: what.into(), reason: reason.into() });
    }

    /// A tensor or file that no loader needs, or that was shown to be a copy.
    pub fn told(&mut self, what: impl Into<String>, reason: impl Into<String>) {
        self.told.push(NotExamined { tensor: what.into(), reason: reason.into() });
    }

    /// Takes over another account.
    pub fn extend(&mut self, other: Self) {
        self.gaps.extend(other.gaps);
        self.told.extend(other.told);
    }

    /// Whether something that a loader would load was not compared.
    pub fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Enters it into an examination: the list, capped with the gaps first, the status, and the reason.
    pub fn enter(mut self, examination: &mut Examination) {
        for heap in [&mut self.gaps, &mut self.told] {
            heap.sort();
            heap.dedup();
        }
        if let Some(first) = self.gaps.first() {
            let others = match self.gaps.len() - 1 {
                0 => String::new(),
                1 => ", and one more".to_owned(),
                more => format!(", and {more} more"),
            };
            let reason = format!("not compared: {} ({}){others}", first.tensor, first.reason);
            examination.reason = Some(match examination.reason.take() {
                Some(before) if before != reason => format!("{before}; {reason}"),
                _ => reason,
            });
            if examination.status == Status::Complete {
                examination.status = Status::Partial;
            }
        }
        let listed = &mut examination.coverage.not_examined;
        let room = MAX_NOT_EXAMINED.saturating_sub(listed.len());
        let total = self.gaps.len() + self.told.len();
        listed.extend(self.gaps.into_iter().chain(self.told).take(room));
        listed.sort();
        listed.dedup();
        if total > room {
            let reason = format!("{} more tensors or files are not listed", total - room);
            listed.push(NotExamined { tensor: EVERYTHING.to_owned(), reason });
        }
    }
}

/// Takes a `clear` back where not all was read: what was not may hold what was not found. In every way to a verdict
/// this comes last.
pub fn withhold(examination: &mut Examination) {
    if examination.verdict == Verdict::Clear && examination.status != Status::Complete {
        examination.verdict = Verdict::Inconclusive;
        let reason = examination.reason.as_deref().unwrap_or("something could not be examined");
        examination.because = format!("no removed direction in what was compared, but not all was: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> Examination {
        Examination::blank(Default::default(), Default::default())
    }

    #[test]
    fn a_gap_makes_an_examination_partial_and_what_is_told_does_not() {
        let mut account = Account::default();
        account.told("lm_head.weight", "tied");
        let mut examination = blank();
        account.clone().enter(&mut examination);
        assert_eq!((examination.status, examination.reason.as_deref()), (Status::Complete, None));
        account.gap("b", "gone");
        account.gap("a", "gone");
        account.enter(&mut examination);
        assert_eq!(examination.status, Status::Partial);
        assert_eq!(examination.reason.as_deref(), Some("not compared: a (gone), and one more"));
        assert_eq!(examination.coverage.not_examined.len(), 3);
    }

    #[test]
    fn the_list_is_capped_with_the_gaps_first() {
        let mut account = Account::default();
        (0..MAX_NOT_EXAMINED).for_each(|number| account.told(format!("a{number}"), "told"));
        account.gap("z", "gone");
        let mut examination = blank();
        account.enter(&mut examination);
        let listed = &examination.coverage.not_examined;
        assert_eq!(listed.len(), MAX_NOT_EXAMINED + 1);
        assert!(listed.iter().any(|one| one.tensor == "z"));
        assert_eq!(listed.last().map(|one| one.reason.as_str()), Some("1 more tensors or files are not listed"));
    }
}
