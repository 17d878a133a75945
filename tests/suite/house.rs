//! The house rules that a reader can count: how long a function is, how wide a comment, and where caps on input stand.

use std::collections::BTreeMap;
use std::path::Path;

/// Lines that a function may have, from its signature to its closing brace.
const LINES: usize = 80;

/// Columns that a line of comment may have.
const COLUMNS: usize = 120;

/// Functions that are longer and stay so, with the reason.
const LONG: &[(&str, &str, &str)] = &[
    ("checkpoint/pickle/machine.rs", "run", "one arm for each opcode, as the format's own table has them"),
    ("checkpoint/quantized/tests.rs", "groups_that_do_not_fit_are_told_and_not_read", "a table of cases"),
];

/// Largest and longest things that stand where they are used, as they are no caps on what comes in.
const NO_CAPS: &[(&str, &str, &str)] = &[
    ("diff/grid.rs", "LONGEST", "the length of FP8's blocks; longer runs do not share their levels"),
    ("diff/operator.rs", "MAX_ROW_ELEMENTS", "a wider row is cut into rows of this width, and nothing is refused"),
    ("diff/order.rs", "MOST", "columns beyond which a search whose work grows with the square is left out"),
    ("sweep/queue.rs", "MOST_ATTEMPTS", "how often the sweep takes up a repository again, whatever is in it"),
];

/// Every file of `src` by its path there, with its text.
fn sources() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = walkdir::WalkDir::new(&source).sort_by_file_name().into_iter().map(Result::unwrap);
    let rust = files.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"));
    let read = rust.map(|entry| {
        let inside = entry.path().strip_prefix(&source).unwrap().to_str().unwrap().replace('\\', "/");
        (inside, std::fs::read_to_string(entry.path()).unwrap())
    });
    let all: Vec<_> = read.collect();
    assert!(all.len() > 100, "{} files", all.len());
    all
}

/// The name of the function or constant that a line declares.
fn declared<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let mut words = line.trim_start();
    if let Some(rest) = words.strip_prefix("pub") {
        words =
            rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest).trim_start();
    }
    for modifier in ["const ", "async ", "unsafe "] {
        if modifier.trim_end() != keyword {
            words = words.strip_prefix(modifier).unwrap_or(words);
        }
    }
    let name = words.strip_prefix(keyword)?.strip_prefix(' ')?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

/// The functions of a file and how many lines each has. The code is laid out by `rustfmt`, so a function ends at the first
/// brace that stands as far in as its signature.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = declared(line, "fn") else { continue };
        let brace = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let Some(opening) = (start..lines.len()).find(|at| lines[*at].ends_with(['{', '}', ';'])) else { continue };
        let end = match lines[opening].ends_with('{') {
            true => (opening..lines.len()).find(|at| lines[*at] == brace).unwrap_or(lines.len() - 1),
            false => opening,
        };
        found.push((name, end + 1 - start));
    }
    found
}

#[test]
fn functions_are_short_enough_to_be_read_at_once() {
    let mut wrong = Vec::new();
    let mut needed = Vec::new();
    let mut seen = 0;
    for (file, text) in sources() {
        for (name, lines) in functions(&text) {
            seen += 1;
            if lines <= LINES {
                continue;
            }
            if let Some(stays) = LONG.iter().find(|(place, known, _)| *place == file && *known == name) {
                needed.push(stays);
            } else {
                wrong.push(format!("src/{file}: {name} has {lines} lines"));
            }
        }
    }
    assert!(seen > 2000, "{seen} functions");
    assert!(wrong.is_empty(), "functions of more than {LINES} lines:\n{}", wrong.join("\n"));
    assert_eq!(needed.len(), LONG.len(), "of those that may be long, only {needed:?} are");
}

#[test]
fn comments_are_no_wider_than_the_code() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (number, line) in (1..).zip(text.lines()) {
            let comment = line.trim_start();
            // The rows of a table cannot be broken.
            let row = comment.trim_start_matches(['/', '!']).starts_with(" |");
            if comment.starts_with("//") && !row && line.chars().count() > COLUMNS {
                wrong.push(format!("src/{file}:{number}: {} columns", line.chars().count()));
            }
        }
    }
    assert!(wrong.is_empty(), "comments of more than {COLUMNS} columns:\n{}", wrong.join("\n"));
}

#[test]
fn caps_on_input_stand_in_one_file() {
    let mut wrong = Vec::new();
    let mut held = Vec::new();
    let mut caps = 0;
    for (file, text) in sources() {
        for name in text.lines().filter_map(|line| declared(line, "const")) {
            if !["MAX", "MOST", "LONGEST"].contains(&name.split('_').next().unwrap_or_default()) {
                continue;
            }
            if file == "limits.rs" {
                caps += 1;
            } else if let Some(known) = NO_CAPS.iter().find(|(place, known, _)| *place == file && *known == name) {
                held.push(known);
            } else {
                wrong.push(format!("src/{file}: {name}"));
            }
        }
    }
    assert!(caps > 50, "{caps} caps");
    assert!(wrong.is_empty(), "not in src/limits.rs, and no reason why:\n{}", wrong.join("\n"));
    assert_eq!(held.len(), NO_CAPS.len(), "only {held:?} are where they are said to be");
}

/// A type that other files see is found by its name alone.
#[test]
fn no_two_types_that_are_seen_outside_have_one_name() {
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for (file, text) in sources() {
        for line in text.lines().filter(|line| line.starts_with("pub")) {
            if let Some(name) = ["struct", "enum", "trait", "type"].iter().find_map(|keyword| declared(line, keyword)) {
                places.entry(name.to_owned()).or_default().push(format!("src/{file}"));
            }
        }
    }
    assert!(places.len() > 400, "{} types", places.len());
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "types of one name: {places:#?}");
}

/// Names that the program depends on, from the manifest's sections of that kind.
fn dependencies(manifest: &toml::Value, section: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut sections: Vec<&toml::Value> = manifest.get(section).into_iter().collect();
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten();
    sections.extend(targets.filter_map(|(_, target)| target.get(section)));
    for names in sections.into_iter().filter_map(toml::Value::as_table) {
        found.extend(names.keys().map(|name| name.replace('-', "_")));
    }
    found
}

#[test]
fn every_dependency_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Value = toml::from_str(&std::fs::read_to_string(root.join("Cargo.toml")).unwrap()).unwrap();
    let text = |folders: &[&str]| -> String {
        let files = folders.iter().flat_map(|folder| walkdir::WalkDir::new(root.join(folder))).map(Result::unwrap);
        let rust = files.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"));
        rust.map(|entry| std::fs::read_to_string(entry.path()).unwrap()).collect()
    };
    for (section, folders) in
        [("dependencies", &["src"][..]), ("dev-dependencies", &["src", "tests", "benches", "examples"])]
    {
        let (names, text) = (dependencies(&manifest, section), text(folders));
        assert!(names.len() > 4, "{section}: {names:?}");
        let is_used = |name: &str| {
            let words = [format!("{name}::"), format!("use {name};"), format!("{name}!")];
            words.iter().any(|word| text.contains(word))
        };
        let unused: Vec<&String> = names.iter().filter(|name| !is_used(name)).collect();
        assert!(unused.is_empty(), "{section} that nothing uses: {unused:?}");
    }
}
