//! Lengths as they are stated.

use super::{Check, CheckOutcome, Look};

/// Holds a file's length to every one that is stated.
pub struct SizeCheck;

impl Check for SizeCheck {
    fn name(&self) -> &'static str {
        "size"
    }

    fn run(&self, look: &mut Look<'_>) {
        let stated: Vec<(String, u64)> = look
            .expected
            .iter()
            .flat_map(|(reference, all)| all.iter().filter_map(|one| Some((reference.name.clone(), one.bytes?))))
            .collect();
        // What cannot be read is told whether or not anybody states a length.
        if let Err(reason) = look.source() {
            return look.put(self.name(), look.unread(), None, Some(reason));
        }
        if stated.is_empty() {
            return look.put(self.name(), CheckOutcome::NotApplicable, None, None);
        }
        // What the hub lists is its word; the length of what it serves comes with the first bytes.
        if !look.item.is_here() {
            if look.item.is_costly() {
                let why = "as the hub lists it; the file itself was not asked for".to_owned();
                return look.put(self.name(), CheckOutcome::NotChecked, None, Some(why));
            }
            if let Err(reason) = look.first() {
                let outcome = if look.moved { CheckOutcome::Differs } else { CheckOutcome::Failed };
                return look.put(self.name(), outcome, None, Some(reason));
            }
        }
        let length = look.length();
        for (against, bytes) in stated {
            if bytes == length {
                look.put(self.name(), CheckOutcome::Ok, Some(against), None);
            } else {
                let what = format!("it has {length} bytes where {bytes} are stated");
                look.put(self.name(), CheckOutcome::Differs, Some(against), Some(what));
            }
        }
    }
}
