//! A list of examinations as a table, one line each.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::error::Result;
use crate::examination::{Examination, Severity, Status};
use crate::report::{Color, Renderer, Report, Style, sanitise, text, words, writing};

/// The renderer.
pub struct List;

impl Renderer for List {
    fn name(&self) -> &'static str {
        "table"
    }

    fn purpose(&self) -> &'static str {
        "one line an examination"
    }

    fn extension(&self) -> &'static str {
        "txt"
    }

    fn media_type(&self) -> &'static str {
        "text/plain; charset=utf-8"
    }

    fn render(&self, report: &Report, style: &Style, out: &mut dyn Write) -> Result<()> {
        let header = ["verdict", "candidate", "relation", "λ", "p ≤", "layers", "severity", "id"];
        let rows: Vec<Vec<String>> = report.examinations.iter().map(|examination| row(examination, style)).collect();
        let elastic = Elastic { columns: &[1], right: &[3, 4, 5] };
        for mut line in laid(&header, &rows, style.width, &elastic) {
            if style.color == Color::Always {
                line = paint_first(&line, report);
            }
            writeln!(out, "{line}").map_err(writing)?;
        }
        Ok(())
    }
}

/// Columns of a table that are not as wide as what is in them.
pub struct Elastic<'a> {
    /// Columns of names, which share what the others leave and are cut in their middle.
    pub columns: &'a [usize],
    /// Columns of numbers, which end at their right.
    pub right: &'a [usize],
}

/// The narrowest that a column of names becomes: below that nothing can be told apart, and a wide line is the lesser
/// evil.
const NARROWEST: usize = 22;

/// Lines of a table in a terminal of this width, its header first, every row on one line.
pub fn laid(header: &[&str], rows: &[Vec<String>], width: usize, elastic: &Elastic<'_>) -> Vec<String> {
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| sanitise::width(cell));
        cells.chain(header.get(column).map(|name| sanitise::width(name))).max().unwrap_or(0)
    };
    let fixed: usize = (0..header.len()).filter(|column| !elastic.columns.contains(column)).map(widest).sum::<usize>()
        + 2 * (header.len() - 1);
    let mut room: Vec<usize> = elastic.columns.iter().map(|column| widest(*column)).collect();
    // The widest gives way first, so that short names stay whole beside long ones.
    let mut over = (fixed + room.iter().sum::<usize>()).saturating_sub(width);
    while over > 0 {
        let Some(widest) = room.iter_mut().filter(|room| **room > NARROWEST).max() else { break };
        *widest -= 1;
        over -= 1;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(at, cell)| {
            let room = elastic.columns.iter().position(|column| *column == at).and_then(|place| room.get(place));
            room.map_or_else(|| cell.clone(), |room| sanitise::fit(cell, *room, "…"))
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for numeric in elastic.right {
        if let Some(column) = table.column_mut(*numeric) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn row(examination: &Examination, style: &Style) -> Vec<String> {
    let ellipsis = if style.unicode { "…" } else { "~" };
    let o = words::removal(examination).filter(|_| examination.status != Status::Failed);
    let lambda = o.and_then(words::range).map_or_else(String::new, |(low, high)| {
        if words::strength(low) == words::strength(high) {
            words::strength(low)
        } else {
            format!("{}–{}", words::strength(low), words::strength(high))
        }
    });
    let strongest = examination.findings.iter().max_by_key(|finding| finding.severity);
    vec![
        word(examination).to_owned(),
        sanitise::name(&examination.candidate.source),
        examination.relation.as_str().to_owned(),
        lambda,
        o.and_then(words::false_positive_limit).map_or_else(String::new, |limit| format!("{limit:.4}")),
        o.map_or_else(String::new, |o| o.layers.len().to_string()),
        strongest.map_or("", |finding| severity_name(finding.severity)).to_owned(),
        // Of a finding where there is one, else the examination's: reports are asked for by either.
        strongest.map_or_else(
            || words::short_id(&examination.id()),
            |finding| sanitise::fit(&sanitise::name(&finding.id), 12, ellipsis),
        ),
    ]
}

/// The first column: what a person filters by.
pub fn word(examination: &Examination) -> &'static str {
    match examination.status {
        Status::Failed => "not examined",
        Status::Complete | Status::Partial => examination.verdict.as_str(),
    }
}

/// The severity's word.
pub const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
    }
}

/// Paints the verdict at the start of a line; the table was laid out without colour, so widths stay right.
fn paint_first(line: &str, report: &Report) -> String {
    use owo_colors::OwoColorize;
    for examination in &report.examinations {
        let word = word(examination);
        if let Some(rest) = line.strip_prefix(word) {
            return format!("{}{rest}", word.style(text::verdict_ink(examination)));
        }
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn one_line_each() {
        let mut out = Vec::new();
        List.render(&sample::everything(), &Style::default(), &mut out).expect("renders");
        let text = String::from_utf8(out).expect("UTF-8");
        assert_eq!(text.lines().count(), 1 + sample::everything().examinations.len());
        insta::assert_snapshot!(text);
    }
}
