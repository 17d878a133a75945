//! The report in a terminal: verdict first, then why, how sure, what it does not say, and what was looked at.

use std::io::Write;

use owo_colors::{OwoColorize, Style as Ink};

use crate::error::Result;
use crate::examination::{Examination, Severity, Status, Verdict};
use crate::report::{
    Color, Renderer, Report, Style, beside, evidence, oddities, plot, sanitise, variants, words, writing,
};

/// Anomalies shown without `--verbose`: the first of a hostile header's million tell as much as all.
const ANOMALIES_SHOWN: usize = 12;

/// The renderer.
pub struct Text;

impl Renderer for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn purpose(&self) -> &'static str {
        "for a person at a terminal"
    }

    fn extension(&self) -> &'static str {
        "txt"
    }

    fn media_type(&self) -> &'static str {
        "text/plain; charset=utf-8"
    }

    fn render(&self, report: &Report, style: &Style, out: &mut dyn Write) -> Result<()> {
        for (index, examination) in report.examinations.iter().enumerate() {
            let mut page = Page { style, text: String::new() };
            if index > 0 {
                page.text.push('\n');
            }
            page.examination(examination, report, index);
            out.write_all(page.text.as_bytes()).map_err(writing)?;
        }
        Ok(())
    }
}

/// The verdict's colour: attention for what needs a person, nothing for an all-clear, which is none.
pub(crate) fn verdict_ink(examination: &Examination) -> Ink {
    match (examination.status, examination.verdict) {
        (Status::Failed, _) | (_, Verdict::Inconclusive) => Ink::new().magenta().bold(),
        (_, Verdict::Orthogonalized) => Ink::new().red().bold(),
        (_, Verdict::Suspect) => Ink::new().yellow().bold(),
        (_, Verdict::Clear) => Ink::new().green().bold(),
    }
}

struct Page<'a> {
    style: &'a Style,
    text: String,
}

impl Page<'_> {
    fn paint(&self, text: &str, ink: Ink) -> String {
        match self.style.color {
            Color::Always => text.style(ink).to_string(),
            Color::Never => text.to_owned(),
        }
    }

    fn width(&self) -> usize {
        words::prose_width(self.style.width)
    }

    fn heading(&mut self, text: &str) {
        let heading = self.paint(text, Ink::new().bold());
        self.text.push_str(&format!("\n{heading}\n"));
    }

    /// A paragraph with a bullet, or lines that continue one.
    fn item(&mut self, text: &str) {
        for (index, line) in sanitise::wrap(text, self.width() - 4).into_iter().enumerate() {
            self.text.push_str(if index == 0 { "  - " } else { "    " });
            self.text.push_str(&line);
            self.text.push('\n');
        }
    }

    fn plain(&mut self, text: &str) {
        for line in sanitise::wrap(text, self.width() - 2) {
            self.text.push_str(&format!("  {line}\n"));
        }
    }

    /// A label and what it is, the label in a column of its own.
    fn field(&mut self, label: &str, text: &str) {
        for (index, line) in sanitise::wrap(text, self.width() - 15).into_iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            self.text.push_str(&format!("  {label:<12} {line}\n"));
        }
    }

    fn items(&mut self, heading: &str, items: &[String]) {
        if !items.is_empty() {
            self.heading(heading);
            items.iter().for_each(|item| self.item(item));
        }
    }

    fn examination(&mut self, examination: &Examination, report: &Report, place: usize) {
        let told = words::tell(examination);
        let ink = verdict_ink(examination);
        let word = match examination.status {
            Status::Failed => "not examined",
            Status::Complete | Status::Partial => examination.verdict.as_str(),
        };
        // The verdict's word is painted after wrapping, so that escape codes do not count as width.
        let prefix = word.to_uppercase();
        let sentence = told.headline.strip_prefix("Not examined: ").unwrap_or(&told.headline);
        let first = format!("{prefix}: {sentence}");
        for (index, line) in sanitise::wrap(&first, self.width()).into_iter().enumerate() {
            match line.strip_prefix(&prefix) {
                Some(rest) if index == 0 => {
                    let painted = self.paint(&prefix, ink);
                    self.text.push_str(&format!("{painted}{rest}\n"));
                }
                _ => self.text.push_str(&format!("{line}\n")),
            }
        }
        self.text.push('\n');
        self.sides(examination, report);
        let variants: Vec<String> = variants::lines(examination).iter().map(variants::Line::told).collect();
        self.items("Variants examined", &variants);
        self.items("Why", &told.why);
        self.items("How sure", &told.sure);
        self.items("What it means", &told.means);
        self.items("What it does not say", &told.limits);
        let decided: Vec<String> = report.decided(place).iter().map(words::decided).collect();
        self.items("Decisions", &decided);
        self.heading("Relation to the base");
        self.item(&told.relation);
        told.claim.iter().for_each(|line| self.item(line));
        self.orthogonalization(examination);
        self.findings(examination, report);
        self.look_alikes(examination);
        self.beside(examination);
        self.coverage(&told);
        self.anomalies(examination);
        self.items("To make this again", &told.reproduce);
        let glossary = words::glossary(examination);
        let glossary: Vec<String> = glossary.iter().map(|(word, meaning)| format!("{word}: {meaning}.")).collect();
        self.items("Words", &glossary);
    }

    fn sides(&mut self, examination: &Examination, report: &Report) {
        for (label, side) in [("candidate", &examination.candidate), ("base", &examination.base)] {
            if side.source.is_empty() {
                self.field(label, "none");
                continue;
            }
            let format = side.format.as_deref().map(|f| format!(" ({})", sanitise::name(f))).unwrap_or_default();
            self.field(label, &format!("{}{format}", words::side(side)));
            if let Some(digest) = &side.digest {
                self.field("", &sanitise::name(digest));
            }
        }
        let tool = &examination.tool;
        let made_by =
            format!("orthoscope {}, catalogue {}", sanitise::name(&tool.version), sanitise::name(&tool.catalogue));
        self.field("by", &made_by);
        words::about(examination, report).iter().for_each(|(label, text)| self.field(label, text));
    }

    fn orthogonalization(&mut self, examination: &Examination) {
        let Some(o) = words::removal(examination) else { return };
        let lines = plot::lines(o, self.width() - 2, self.style.unicode);
        if let Some((heading, rows)) = lines.split_first() {
            self.heading(heading);
            for row in rows {
                self.text.push_str(&format!("  {row}\n"));
            }
            let legend = plot::legend(o, self.style.unicode);
            self.plain(&legend);
        }
        if !o.recipe.is_empty() {
            let recipe: Vec<String> = o.recipe.iter().map(|text| sanitise::sentence(text)).collect();
            self.items("Recipe", &recipe);
        }
    }

    fn findings(&mut self, examination: &Examination, report: &Report) {
        if examination.findings.is_empty() {
            return;
        }
        self.heading("Signatures that hold");
        for finding in &examination.findings {
            let (word, ink) = match finding.severity {
                Severity::Info => ("info", Ink::new().cyan()),
                Severity::Low => ("low", Ink::new().cyan()),
                Severity::Medium => ("medium", Ink::new().yellow()),
                Severity::High => ("high", Ink::new().red()),
            };
            let title = report.catalogue.get(&finding.signature).map(|s| s.title.clone()).unwrap_or_default();
            let word = self.paint(word, ink);
            let id = sanitise::name(&finding.id);
            let signature = sanitise::name(&finding.signature);
            let preview = if finding.status == "stable" {
                String::new()
            } else {
                format!(" [{}]", sanitise::name(&finding.status))
            };
            self.text.push_str(&format!("  {id}  {word}  {signature}{preview}\n"));
            if !title.is_empty() {
                self.plain(&format!("  {}", sanitise::sentence(&title)));
            }
            for clause in evidence::clauses(finding) {
                self.item(&clause.told());
            }
            for line in words::listed(finding) {
                self.item(&line);
            }
        }
    }

    fn look_alikes(&mut self, examination: &Examination) {
        if !matches!(examination.verdict, Verdict::Orthogonalized | Verdict::Suspect) {
            return;
        }
        let considered = evidence::look_alikes(examination);
        let (known, unknown): (Vec<_>, Vec<_>) = considered.into_iter().partition(|look| look.fits.is_some());
        if known.is_empty() {
            return;
        }
        self.heading("Benign look-alikes considered");
        for look in known {
            let answer = if look.fits == Some(true) { "not excluded by this" } else { "does not fit" };
            self.item(&format!("{}: {answer}; {}.", look.name, look.told));
        }
        if !unknown.is_empty() {
            let names: Vec<_> = unknown.iter().map(|look| look.name).collect();
            self.item(&format!("not weighed, for want of a measurement: {}.", names.join(", ")));
        }
    }

    fn coverage(&mut self, told: &words::Told) {
        const REASONS: usize = 8;
        self.heading("What was looked at");
        self.item(&format!("{}.", told.coverage));
        let shown = if self.style.verbose { told.not_examined.len() } else { REASONS };
        for (reason, number, names) in told.not_examined.iter().take(shown) {
            if *number == 0 {
                self.item(reason);
                continue;
            }
            let more = if *number > names.len() { ", …" } else { "" };
            self.item(&format!("not examined: {number} because {reason} ({}{more})", names.join(", ")));
        }
        if told.not_examined.len() > shown {
            self.item(&format!("and {} more reasons", told.not_examined.len() - shown));
        }
    }

    fn beside(&mut self, examination: &Examination) {
        self.items(beside::HEADING, &beside::lines(examination));
    }

    fn anomalies(&mut self, examination: &Examination) {
        let all = &examination.anomalies;
        if all.is_empty() {
            return;
        }
        self.heading(&format!("Oddities of the files ({})", all.len()));
        let told = if self.style.verbose { oddities::single(all) } else { oddities::grouped(all) };
        let shown = if self.style.verbose { told.len() } else { ANOMALIES_SHOWN };
        for one in told.iter().take(shown) {
            self.item(&format!("{}: {}{}: {}", one.kind(), one.file(), one.tensor(), one.detail()));
        }
        if told.len() > shown {
            self.item(&format!("and {} more", told.len() - shown));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn shown(examination: Examination, style: &Style) -> String {
        let mut out = Vec::new();
        Text.render(&sample::report(examination), style, &mut out).expect("renders");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn orthogonalized() {
        insta::assert_snapshot!(shown(sample::orthogonalized(), &Style::default()));
    }

    #[test]
    fn clear() {
        insta::assert_snapshot!(shown(sample::clear(), &Style::default()));
    }

    #[test]
    fn suspect_in_a_narrow_terminal_without_unicode_blocks() {
        let style = Style { width: 60, unicode: false, ..Style::default() };
        insta::assert_snapshot!(shown(sample::suspect(), &style));
    }

    #[test]
    fn failed() {
        insta::assert_snapshot!(shown(sample::failed(), &Style::default()));
    }

    #[test]
    fn identical() {
        insta::assert_snapshot!(shown(sample::identical(), &Style::default()));
    }

    #[test]
    fn hostile_names() {
        insta::assert_snapshot!(shown(sample::hostile(), &Style::default()));
    }

    #[test]
    fn what_a_hub_never_said_is_not_made_up() {
        let mut out = Vec::new();
        Text.render(&Report::of(sample::orthogonalized()), &Style::default(), &mut out).expect("renders");
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.contains("its tags are not recorded") && !text.contains("downloads"), "{text}");
        assert!(text.contains(&sample::orthogonalized().id().hex()), "{text}");
    }

    #[test]
    fn colour_only_when_asked() {
        let style = Style { color: Color::Always, ..Style::default() };
        assert!(shown(sample::orthogonalized(), &style).starts_with("\u{1b}["));
        assert!(!shown(sample::orthogonalized(), &Style::default()).contains('\u{1b}'));
    }
}
