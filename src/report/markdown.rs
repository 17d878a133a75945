//! The dossier as Markdown, short enough to be pasted into a ticket.

use std::io::Write;

use crate::error::Result;
use crate::examination::{Examination, Finding, Orthogonalization, Status, Verdict};
use crate::report::table::{severity_name, word};
use crate::report::words::{self, Told};
use crate::report::{Renderer, Report, Style, beside, evidence, oddities, plot, sanitise, variants, writing};

/// Rows of a long table or list shown: a ticket has room for some.
const ROWS: usize = 40;

/// Oddities, and reasons why something was not examined, that are shown.
const SHOWN: usize = 8;

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

/// The whole dossier of one examination, the one at this place of the report.
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
    out.push_str(&identity(examination, report));
    out.push_str(&format!("\n**Relation**: {}.\n\n", inline(&told.relation)));
    out.extend(told.claim.iter().map(|line| format!("- {}\n", escape(line))));
    out.push_str(&looked_at(&told));
    if let Some(removal) = words::removal(examination) {
        if examination.status != Status::Failed {
            out.push_str(&picture(removal));
        }
        let recipe: Vec<String> = removal.recipe.iter().map(|text| sanitise::sentence(text)).collect();
        out.push_str(&list("Recipe", &recipe));
    }
    out.extend(examination.findings.iter().map(|one| finding(one, report)));
    out.push_str(&look_alikes(examination));
    out.push_str(&list(beside::HEADING, &beside::lines(examination)));
    out.push_str(&anomalies(examination));
    if !told.reproduce.is_empty() {
        out.push_str("\n**To check or appeal this**, make it again:\n\n");
        out.extend(told.reproduce.iter().map(|command| format!("    {command}\n")));
    }
    let glossary = words::glossary(examination);
    let glossary: Vec<String> = glossary.iter().map(|(word, meaning)| format!("{word}: {meaning}.")).collect();
    out.push_str(&list("Words", &glossary));
    out
}

/// Both sides with commit and digest, what compared them, and what else is known of the candidate.
fn identity(examination: &Examination, report: &Report) -> String {
    let mut out = "\n**What was compared**\n\n| | repository | commit | digest |\n|---|---|---|---|\n".to_owned();
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
    out
}

/// How much was compared, and what was not; a ticket has room for some of it.
fn looked_at(told: &Told) -> String {
    let mut out = format!("\n**Looked at**: {}.\n", inline(&told.coverage));
    for (reason, number, names) in told.not_examined.iter().take(SHOWN) {
        if *number == 0 {
            out.push_str(&format!("\n- {}", escape(reason)));
            continue;
        }
        out.push_str(&format!("\n- not examined: {number} because {} ({})", escape(reason), escape(&names.join(", "))));
    }
    if !told.not_examined.is_empty() {
        out.push('\n');
    }
    out
}

/// Strength over layers as characters in a code block.
fn picture(removal: &Orthogonalization) -> String {
    let lines = plot::lines(removal, 90, true);
    if lines.is_empty() {
        return String::new();
    }
    // A fence longer than any run of backticks that a module's name could hold.
    let fence = "`".repeat(lines.iter().map(|line| line.matches('`').count()).max().unwrap_or(0) + 3);
    let legend = plot::legend(removal, true);
    format!("\n{fence}text\n{}\n{legend}\n{fence}\n", lines.join("\n"))
}

/// One finding with each clause's number, and what loading the files would run.
fn finding(finding: &Finding, report: &Report) -> String {
    let title = report
        .catalogue
        .get(&finding.signature)
        .map_or_else(|| sanitise::name(&finding.signature), |text| sanitise::sentence(&text.title));
    let mut out = format!(
        "\n**Finding {}: {}** (severity {}, signature {}, {})\n\n",
        escape(&sanitise::name(&finding.id)),
        escape(&title),
        severity_name(finding.severity),
        code(&sanitise::name(&finding.signature)),
        inline(&sanitise::name(&finding.status))
    );
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
    let imports = words::listed(finding);
    if !imports.is_empty() {
        out.push_str("\nLoading the files would run:\n\n");
    }
    out.extend(imports.iter().take(ROWS).map(|import| format!("- {}\n", code(import))));
    if imports.len() > ROWS {
        out.push_str(&format!("- and {} more\n", imports.len() - ROWS));
    }
    out
}

/// What else it could be, where something was called of it.
fn look_alikes(examination: &Examination) -> String {
    if !matches!(examination.verdict, Verdict::Orthogonalized | Verdict::Suspect) {
        return String::new();
    }
    let looks: Vec<String> = evidence::look_alikes(examination)
        .into_iter()
        .filter_map(|look| {
            let fits = if look.fits? { "not excluded by this" } else { "does not fit" };
            Some(format!("{}: {fits}; {}", look.name, look.told))
        })
        .collect();
    list("Benign look-alikes considered", &looks)
}

/// Oddities of the files, the first kinds of them.
fn anomalies(examination: &Examination) -> String {
    if examination.anomalies.is_empty() {
        return String::new();
    }
    let mut out = format!("\n**Oddities of the files** ({})\n\n", examination.anomalies.len());
    let told = oddities::grouped(&examination.anomalies);
    for one in told.iter().take(SHOWN) {
        let (kind, file) = (escape(&one.kind()), escape(&one.file()));
        out.push_str(&format!("- {kind} in {file}: {}\n", escape(&one.detail())));
    }
    if told.len() > SHOWN {
        out.push_str(&format!("- and {} more\n", told.len() - SHOWN));
    }
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
