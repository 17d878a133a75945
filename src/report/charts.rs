//! The pictures of prevalence as files, each with its numbers: for an article, or for another program's drawing.

use maud::Markup;

use super::chart::Room;
use super::prevalence::{declared_picture, delays_picture, picture, shares};
use super::rates::{Detector, ShareInterval, wilson};
use crate::index::prevalence::{DIMENSIONS, Group, Prevalence};

/// One picture with the numbers that it shows.
pub struct Chart {
    /// Name of its files without an ending.
    pub name: String,
    /// The picture.
    pub picture: Markup,
    /// The numbers, column names first. Text in it is as recorded.
    pub table: Vec<Vec<String>>,
}

/// Every picture that there are numbers for: a share for each dimension that was counted, names against weights, and
/// delays.
pub fn charts(counts: &Prevalence, detector: Option<Detector>) -> Vec<Chart> {
    let mut all = Vec::new();
    for dimension in DIMENSIONS {
        let Some(groups) = counts.groups.get(&dimension) else { continue };
        if let Some(picture) = picture(dimension, groups, detector, Room::Wide) {
            let table = group_table(dimension.as_str(), groups, detector);
            all.push(Chart { name: format!("by-{}", dimension.as_str()), picture, table });
        }
    }
    if let Some(picture) = declared_picture(counts, Room::Wide) {
        all.push(Chart { name: "declared".to_owned(), picture, table: declared_table(counts) });
    }
    if let Some(picture) = delays_picture(counts, Room::Wide) {
        let mut table = vec![row(&["base", "days", "released", "first_derivative"])];
        table.extend(counts.delays.iter().map(|delay| {
            let day = super::prevalence::day;
            vec![delay.base.clone(), delay.days.to_string(), day(delay.released), day(delay.first)]
        }));
        all.push(Chart { name: "delays".to_owned(), picture, table });
    }
    all
}

fn row(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Share, lower end, upper end; empty where nothing is known.
fn numbers(rate: Option<ShareInterval>) -> [String; 3] {
    match rate {
        Some(rate) => [rate.share, rate.low, rate.high].map(|number| format!("{number:.6}")),
        None => Default::default(),
    }
}

fn group_table(name: &str, groups: &[Group], detector: Option<Detector>) -> Vec<Vec<String>> {
    let mut header = row(&[name, "listed", "examined", "not_examinable", "orthogonalized", "suspect", "inconclusive"]);
    for rate in ["share", "exact", "of_downloads", "corrected"] {
        header.extend(["", "_low", "_high"].map(|end| format!("{rate}{end}")));
    }
    let mut table = vec![header];
    for group in groups {
        let rates = shares(group, detector);
        let mut line = vec![group.label.clone()];
        let counts = [
            group.listed,
            group.examined,
            group.not_examinable(),
            group.orthogonalized,
            group.suspect,
            group.inconclusive,
        ];
        line.extend(counts.iter().map(u64::to_string));
        let known = |rate: ShareInterval| (group.examined > 0).then_some(rate);
        line.extend(numbers(known(rates.wilson)));
        line.extend(numbers(known(rates.exact)));
        line.extend(numbers((group.downloads[1] > 0.0).then_some(rates.downloads)));
        line.extend(numbers(rates.corrected.and_then(known)));
        table.push(line);
    }
    table
}

fn declared_table(counts: &Prevalence) -> Vec<Vec<String>> {
    let d = &counts.declared;
    let mut table = vec![row(&["what", "count", "of", "share", "share_low", "share_high"])];
    for (what, count, of) in [
        ("orthogonalized and not declared", d.undeclared_found, d.declared_found + d.undeclared_found),
        ("declared and not orthogonalized", d.declared_not_found, d.declared_found + d.declared_not_found),
    ] {
        let mut line = vec![what.to_owned(), count.to_string(), of.to_string()];
        line.extend(numbers((of > 0).then(|| wilson(count, of))));
        table.push(line);
    }
    table
}
