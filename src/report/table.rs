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
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header([
            "verdict",
            "candidate",
            "relation",
            "λ",
            "p ≤",
            "layers",
            "severity",
            "finding",
        ]);
        // What the other columns take at most; the candidate's name gets the rest.
        let room = style.width.saturating_sub(88).max(24);
        for examination in &report.examinations {
            table.add_row(row(examination, room, style));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for numeric in [3, 4, 5] {
            if let Some(column) = table.column_mut(numeric) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            let mut line = line.trim_end().to_owned();
            if style.color == Color::Always {
                line = paint_first(&line, report);
            }
            writeln!(out, "{line}").map_err(writing)?;
        }
        Ok(())
    }
}

fn row(examination: &Examination, room: usize, style: &Style) -> Vec<String> {
    let ellipsis = if style.unicode { "…" } else { "~" };
    let o = examination.orthogonalization.as_ref().filter(|_| examination.status != Status::Failed);
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
        sanitise::fit(&words::side(&examination.candidate), room, ellipsis),
        words::relation_name(examination.relation).to_owned(),
        lambda,
        o.filter(|o| o.tensors > 0 && o.p_value > 0.0).map_or_else(String::new, |o| words::number(o.p_value)),
        o.filter(|o| o.tensors > 0).map_or_else(String::new, |o| o.layers.len().to_string()),
        strongest.map_or("", |finding| severity_name(finding.severity)).to_owned(),
        strongest.map_or_else(String::new, |finding| sanitise::fit(&sanitise::name(&finding.id), 12, ellipsis)),
    ]
}

/// The first column: what a person filters by.
pub fn word(examination: &Examination) -> &'static str {
    match examination.status {
        Status::Failed => "not examined",
        Status::Complete | Status::Partial => words::verdict_name(examination.verdict),
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
