//! The dossier as Markdown, short enough to be pasted into a ticket.

use std::io::Write;

use crate::error::Result;
use crate::examination::{Examination, Status, Verdict};
use crate::report::table::{severity_name, word};
use crate::report::{Renderer, Report, Style, beside, evidence, oddities, plot, sanitise, variants, words, writing};

/// The renderer.
pub struct Markdown;

impl Renderer for Markdown {
    fn name(&self) -> &'static str {
        "markdown"
    }

    fn purpose(&self) -> &'static str {
        "the dossier for a ticket"
    }

    fn extension(&self) -> &'static str {
        "md"
    }

    fn media_type(&self) -> &'static str {
        "text/markdown; charset=utf-8"
    }

    fn render(&self, report: &Report, _: &Style, out: &mut dyn Write) -> Result<()> {
        for (index, examination) in report.examinations.iter().enumerate() {
            let separator = if index > 0 { "\n---\n\n" } else { "" };
            write!(out, "{separator}{}", dossier(examination, report, index)).map_err(writing)?;
        }
        Ok(())
    }
}

/// Text that Markdown shows as itself within a line: everything with a meaning to it, to HTML, or to a ticket system
/// (mentions, issue numbers, links made of bare addresses) as a character reference.
pub fn inline(text: &str) -> String {
    const MEANING: &str = "\\`*_[]<>&|~#!$@";
    let mut out = String::with_capacity(text.len());
    for (index, character) in text.char_indices() {
        let starts_link = character == ':' && text[index..].starts_with("://")
            || character == '.' && text[..index].to_ascii_lowercase().ends_with("www");
        // Within a word it has no meaning, and names of tensors are full of it.
        let within_word = character == '_'
            && text[..index].ends_with(char::is_alphanumeric)
            && text[index + 1..].starts_with(char::is_alphanumeric);
        if (MEANING.contains(character) && !within_word) || starts_link {
            out.push_str(&format!("&#{};", character as u32));
        } else {
            out.push(character);
        }
    }
    out
}

/// The same at the start of a line, where it must not begin a list, a heading's underline or a table either. `1 of 3`
/// may stay; `1. ` may not.
pub fn escape(text: &str) -> String {
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let list = number.len() < text.len() && number.starts_with(['.', ')']);
    match text.chars().next() {
        Some(first) if list || "-+=:".contains(first) => format!("&#{};{}", first as u32, inline(&text[1..])),
        _ => inline(text),
    }
}

/// A code span that no backtick inside can end.
fn code(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    // A bar would end a table's cell even inside code.
    format!("{fence}{pad}{}{pad}{fence}", text.replace('|', "¦"))
}

fn list(heading: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let items: String = lines.iter().map(|line| format!("- {}\n", escape(line))).collect();
    format!("\n**{heading}**\n\n{items}")
}

/// The checkpoints of a repository that holds several; a ticket has room for some.
fn variant_table(examination: &Examination) -> String {
    const ROWS: usize = 40;
    let lines = variants::lines(examination);
    if lines.is_empty() {
        return String::new();
    }
    let mut out = "\n**Variants examined** (the verdict on the whole is that of the gravest)\n\n\
                   | file or quantisation | format | verdict | relation | strength and limit, or why not |\n\
                   |---|---|---|---|---|\n"
        .to_owned();
    for line in lines.iter().take(ROWS) {
        out.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            code(&line.name),
            inline(&line.format),
            line.verdict,
            line.relation,
            inline(&line.detail)
        ));
    }
    if lines.len() > ROWS {
        out.push_str(&format!("\nand {} more\n", lines.len() - ROWS));
    }
    out
}

fn dossier(examination: &Examination, report: &Report, place: usize) -> String {
    let told = words::tell(examination);
    let mut out = format!(
        "## {}: {}\n\n{}\n",
        escape(&sanitise::name(&examination.candidate.source)),
        word(examination),
        escape(&told.headline)
    );
    out.push_str(&list("How sure", &told.sure));
    out.push_str(&list("Why", &told.why));
    out.push_str(&list("What it means", &told.means));
    out.push_str(&list("What it does not say", &told.limits));
    out.push_str(&list("Decisions", &report.decided(place).iter().map(words::decided).collect::<Vec<_>>()));
    out.push_str(&variant_table(examination));
    out.push_str("\n**What was compared**\n\n| | repository | commit | digest |\n|---|---|---|---|\n");
    for (label, side) in [("candidate", &examination.candidate), ("base", &examination.base)] {
        let optional =
            |text: &Option<String>| text.as_deref().map_or("not known".to_owned(), |t| code(&sanitise::name(t)));
        let source = if side.source.is_empty() { "none".to_owned() } else { code(&sanitise::name(&side.source)) };
        out.push_str(&format!("| {label} | {source} | {} | {} |\n", optional(&side.revision), optional(&side.digest)));
    }
    out.push_str(&format!(
        "\nBy orthoscope {}, catalogue {}.\n",
        inline(&sanitise::name(&examination.tool.version)),
        code(&sanitise::name(&examination.tool.catalogue))
    ));
    out.push('\n');
    for (label, text) in &words::about(examination, report) {
        // Only addresses that are made here come alive.
        let text = if text.starts_with("https://") { format!("<{text}>") } else { inline(text) };
        out.push_str(&format!("- {label}: {text}\n"));
    }
    out.push_str(&format!("\n**Relation**: {}.\n\n", inline(&told.relation)));
    out.extend(told.claim.iter().map(|line| format!("- {}\n", escape(line))));
    out.push_str(&format!("\n**Looked at**: {}.\n", inline(&told.coverage)));
    for (reason, number, names) in told.not_examined.iter().take(8) {
        if *number == 0 {
            out.push_str(&format!("\n- {}", escape(reason)));
            continue;
        }
        out.push_str(&format!("\n- not examined: {number} because {} ({})", escape(reason), escape(&names.join(", "))));
    }
    if !told.not_examined.is_empty() {
        out.push('\n');
    }
    if let Some(o) = words::removal(examination) {
        // A fence longer than any run of backticks that a module's name could hold.
        let picture = plot::lines(o, 90, true);
        if !picture.is_empty() && examination.status != Status::Failed {
            let fence = "`".repeat(picture.iter().map(|l| l.matches('`').count()).max().unwrap_or(0) + 3);
            let legend = plot::legend(o, true);
            out.push_str(&format!("\n{fence}text\n{}\n{legend}\n{fence}\n", picture.join("\n")));
        }
        let recipe: Vec<String> = o.recipe.iter().map(|text| sanitise::sentence(text)).collect();
        out.push_str(&list("Recipe", &recipe));
    }
    for finding in &examination.findings {
        let title = report
            .catalogue
            .get(&finding.signature)
            .map_or_else(|| sanitise::name(&finding.signature), |text| sanitise::sentence(&text.title));
        out.push_str(&format!(
            "\n**Finding {}: {}** (severity {}, signature {}, {})\n\n",
            escape(&sanitise::name(&finding.id)),
            escape(&title),
            severity_name(finding.severity),
            code(&sanitise::name(&finding.signature)),
            inline(&sanitise::name(&finding.status))
        ));
        let clauses = evidence::clauses(finding);
        if !clauses.is_empty() {
            out.push_str("| measurement | value | demanded |\n|---|---:|---|\n");
        }
        for clause in clauses {
            out.push_str(&format!(
                "| {} | {} | {} |\n",
                code(&clause.measurement),
                clause.value.map_or("–".to_owned(), words::number),
                clause.bounds().unwrap_or_default()
            ));
        }
        let imports = evidence::listed(finding);
        if !imports.is_empty() {
            out.push_str("\nLoading the files would run:\n\n");
        }
        out.extend(imports.iter().take(40).map(|import| format!("- {}\n", code(import))));
        if imports.len() > 40 {
            out.push_str(&format!("- and {} more\n", imports.len() - 40));
        }
    }
    if matches!(examination.verdict, Verdict::Orthogonalized | Verdict::Suspect) {
        let looks: Vec<String> = evidence::look_alikes(examination)
            .into_iter()
            .filter_map(|look| {
                let fits = if look.fits? { "not excluded by this" } else { "does not fit" };
                Some(format!("{}: {fits}; {}", look.name, look.told))
            })
            .collect();
        out.push_str(&list("Benign look-alikes considered", &looks));
    }
    out.push_str(&list(beside::HEADING, &beside::lines(examination)));
    if !examination.anomalies.is_empty() {
        out.push_str(&format!("\n**Oddities of the files** ({})\n\n", examination.anomalies.len()));
        let told = oddities::grouped(&examination.anomalies);
        for one in told.iter().take(8) {
            let (kind, file) = (escape(&one.kind()), escape(&one.file()));
            out.push_str(&format!("- {kind} in {file}: {}\n", escape(&one.detail())));
        }
        if told.len() > 8 {
            out.push_str(&format!("- and {} more\n", told.len() - 8));
        }
    }
    if !told.reproduce.is_empty() {
        out.push_str("\n**To check or appeal this**, make it again:\n\n");
        out.extend(told.reproduce.iter().map(|command| format!("    {command}\n")));
    }
    let glossary = words::glossary(examination);
    let glossary: Vec<String> = glossary.iter().map(|(word, meaning)| format!("{word}: {meaning}.")).collect();
    out.push_str(&list("Words", &glossary));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn shown(examination: Examination) -> String {
        let mut out = Vec::new();
        Markdown.render(&sample::report(examination), &Style::default(), &mut out).expect("renders");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn ticket() {
        insta::assert_snapshot!(shown(sample::orthogonalized()));
    }

    #[test]
    fn hostile_text_stays_text() {
        let text = shown(sample::hostile());
        // Outside of code, no angle bracket, no link, no mention.
        let unfenced = text.split("```").step_by(2).collect::<String>();
        let outside: String =
            unfenced.lines().filter(|line| !line.starts_with("    ") && !line.contains('`')).collect();
        assert!(!outside.contains("<script"), "{outside}");
        assert!(!outside.contains("[x](y)"), "{outside}");
        assert!(!outside.contains('@'), "{outside}");
    }

    #[test]
    fn bare_addresses_and_blocks_do_not_come_alive() {
        assert_eq!(escape("see https://x.example"), "see https&#58;//x.example");
        assert_eq!(escape("www.x.example"), "www&#46;x.example");
        assert_eq!(escape("- item"), "&#45; item");
        assert_eq!(escape("1. item"), "&#49;. item");
        assert_eq!(escape("1 of 2"), "1 of 2");
        assert_eq!(code("a`b"), "``a`b``");
        assert_eq!(code("a|b"), "`a¦b`");
    }

    #[test]
    fn variants_and_imports_are_shown() {
        let text = shown(sample::several());
        for needed in [
            "| `pytorch_model¦<b>.bin` | pickle | not examined |",
            "| `Q4_K_M` | gguf | orthogonalized | edited |",
            "- `posix.system in pytorch_model.bin`",
            "- `` <script>alert(1)</script> in `x¦y` ``",
        ] {
            assert!(text.contains(needed), "{needed} in {text}");
        }
    }
}
