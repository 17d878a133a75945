//! What must not change a measurement: threads, shards, the order of tensors, running again.

use std::collections::{BTreeMap, BTreeSet};

use orthoscope::checkpoint::folder::open_path;
use orthoscope::checkpoint::safetensors::{NewTensor, encode_floats, write};
use orthoscope::demo::tiny::edits::{self, RemovalKind};
use orthoscope::demo::tiny::{Model, TinySize, direction};
use orthoscope::diff::{self, Unobserved};
use orthoscope::hub::HUBS;
use orthoscope::pair;
use orthoscope::tensor::BF16;
use proptest::prelude::*;

fn profile(folder: &std::path::Path) -> orthoscope::profile::Profile {
    let (base, candidate) = (open_path(&folder.join("base")).unwrap(), open_path(&folder.join("candidate")).unwrap());
    let pairing = pair::pair(&base, &candidate);
    let measured = diff::measure(&base, &candidate, &pairing, &Unobserved).unwrap();
    diff::summary::summarize(&pairing, &measured).profile
}

/// A base and a candidate with an edit, training and a rescaled matrix, so that every path of the engine runs.
fn models(seed: u64) -> (Model, Model) {
    let base = TinySize { width: 48, layers: 3, inner: 96, heads: 3, vocabulary: 64 }.llama(seed);
    let mut candidate = base.clone();
    edits::fine_tune(&mut candidate, 0.02, seed);
    let r = direction(seed, "removed", 48);
    for name in candidate.writers() {
        edits::orthogonalize(candidate.tensors.get_mut(&name).unwrap(), &r, 0.7, RemovalKind::Plain);
    }
    edits::rescale(candidate.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap(), 1.05);
    (base, candidate)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn threads_and_shards_change_no_bit(seed in 0u64..1000, threads in 1usize..5, shards in 1usize..6) {
        let (base, candidate) = models(seed);
        let folder = tempfile::tempdir().unwrap();
        base.write(&folder.path().join("base"), &BF16, 1).unwrap();
        candidate.write(&folder.path().join("candidate"), &BF16, 1).unwrap();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let many = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let expected = one.install(|| profile(folder.path()));
        prop_assert_eq!(&expected, &many.install(|| profile(folder.path())));
        std::fs::remove_dir_all(folder.path().join("candidate")).unwrap();
        candidate.write(&folder.path().join("candidate"), &BF16, shards).unwrap();
        prop_assert_eq!(&expected, &profile(folder.path()));
    }

    #[test]
    fn the_order_of_tensors_in_a_file_changes_no_bit(seed in 0u64..1000) {
        let (base, candidate) = models(seed);
        let folder = tempfile::tempdir().unwrap();
        base.write(&folder.path().join("base"), &BF16, 1).unwrap();
        candidate.write(&folder.path().join("candidate"), &BF16, 1).unwrap();
        let expected = profile(folder.path());
        // The writer sorts by dtype and name; names with a common prefix in another order need another file each.
        let stored: Vec<_> = candidate.tensors.iter().rev().map(|(name, weight)| {
            let shape: Vec<u64> = weight.shape.iter().map(|side| *side as u64).collect();
            (name, shape, encode_floats(&BF16, &weight.values).unwrap())
        }).collect();
        let path = folder.path().join("candidate/model.safetensors");
        std::fs::remove_file(&path).unwrap();
        for (index, chunk) in stored.chunks(7).enumerate() {
            let tensors: Vec<NewTensor<'_>> = chunk.iter()
                .map(|(name, shape, bytes)| NewTensor { name, dtype: &BF16, shape, bytes }).collect();
            let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, stored.len().div_ceil(7));
            write(&folder.path().join("candidate").join(name), &tensors, &Default::default()).unwrap();
        }
        prop_assert_eq!(&expected, &profile(folder.path()));
    }
}

/// What differs between hubs is asked of their entries, so that a new hub is one file and one line.
#[test]
fn hubs_are_named_in_their_own_files_alone() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let words: Vec<String> = HUBS
        .iter()
        .flat_map(|hub| {
            let hosts = hub.pages.iter().flat_map(|pages| pages.hosts.iter().map(|host| format!("\"{host}\"")));
            [format!("\"{}\"", hub.prefix), format!("\"{}:\"", hub.prefix)].into_iter().chain(hosts)
        })
        .collect();
    let mut wrong = Vec::new();
    let mut read = 0;
    for entry in walkdir::WalkDir::new(&source).sort_by_file_name() {
        let entry = entry.unwrap();
        let inside = entry.path().strip_prefix(&source).unwrap();
        let is_test = inside.to_str().unwrap().contains("test") || inside.ends_with("samples.rs");
        if inside.extension().is_none_or(|extension| extension != "rs") || inside.starts_with("hub") || is_test {
            continue;
        }
        read += 1;
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            if words.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}: {}", inside.display(), line.trim()));
            }
        }
    }
    assert!(read > 100, "{read} files");
    assert!(wrong.is_empty(), "a hub asked by its name:\n{}", wrong.join("\n"));
}

/// A file's code without its comments and without what only its tests need.
fn production(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        if line.trim() != "#[cfg(test)]" {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        // The item below: to its semicolon, or to the brace that closes it.
        let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let mut item = lines.find(|line| !line.trim_start().starts_with("#[")).unwrap_or_default();
        if item.ends_with(';') {
            continue;
        }
        while item != end {
            item = lines.next().unwrap_or(&end);
        }
    }
    code
}

/// Files of `src` that only tests compile: modules under `#[cfg(test)]`.
fn only_for_tests(source: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in
        walkdir::WalkDir::new(source).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file())
    {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let Some(name) = pair[1].trim_start_matches("pub ").strip_prefix("mod ") else { continue };
            let Some(name) = name.strip_suffix(';') else { continue };
            let folder = if entry.path().ends_with("mod.rs") { entry.path().parent().unwrap() } else { entry.path() };
            found.push(folder.with_extension("").join(name));
        }
    }
    found
}

/// The modules in the order of `lib.rs`, which is that in which data meets them.
#[test]
fn modules_use_only_what_stands_above_them_on_the_front_page() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let front = std::fs::read_to_string(source.join("lib.rs")).unwrap();
    let order: Vec<&str> = front.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(order.len() > 20 && !front.contains("\nmod "), "{order:?}");
    let place = |name: &str| order.iter().position(|known| *known == name);
    let tests = only_for_tests(&source);
    assert!(tests.iter().any(|path| path.ends_with("arch/tests")), "{tests:?}");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for entry in walkdir::WalkDir::new(&source).sort_by_file_name() {
        let entry = entry.unwrap();
        let path = entry.path();
        let inside = path.strip_prefix(&source).unwrap();
        let is_test = tests.iter().any(|test| path.with_extension("").starts_with(test));
        if !entry.file_type().is_file() || is_test || inside.ends_with("main.rs") || inside.ends_with("lib.rs") {
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let first = inside.iter().next().and_then(|part| part.to_str()).unwrap().trim_end_matches(".rs");
        let own = place(first).unwrap_or_else(|| panic!("{first} is not on the front page"));
        let code = production(&std::fs::read_to_string(path).unwrap());
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + 7..];
            // Lists of modules and names of the front page itself (`crate::COMMIT`, `crate::{…}`).
            let names: Vec<String> = match rest.strip_prefix('{') {
                Some(list) => {
                    let list = list.split('}').next().unwrap_or_default();
                    list.split(',').map(|item| item.trim().split("::").next().unwrap_or_default().to_owned()).collect()
                }
                None => vec![rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()],
            };
            for name in names.iter().filter(|name| name.chars().next().is_some_and(char::is_lowercase)) {
                seen += 1;
                match place(name) {
                    Some(other) if other > own => wrong.push(format!("{}: crate::{name}", inside.display())),
                    Some(_) => {}
                    None => wrong.push(format!("{}: crate::{name} is not on the front page", inside.display())),
                }
            }
        }
    }
    assert!(seen > 500, "{seen}");
    assert!(wrong.is_empty(), "imports against the flow of data:\n{}", wrong.join("\n"));
}

/// The names that code takes from behind `prefix`: of `prefix::a::b` the a, of `prefix::{a, b::{c, d}}` a and b.
fn taken_from<'c>(code: &'c str, prefix: &str) -> Vec<&'c str> {
    let name = |text: &'c str| {
        let text = text.trim_start();
        &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
    };
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix).filter(|(at, _)| !code[..*at].ends_with("::")) {
        let rest = &code[at + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.push(name(rest));
            continue;
        };
        let mut depth = 0;
        names.push(name(list));
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(name(&list[at + 1..])),
                _ => {}
            }
        }
    }
    names
}

/// Within a folder no two files use one another, be it by way of others: there too data flows one way. A folder in it
/// counts as one file.
#[test]
fn no_files_of_one_folder_go_round_in_a_circle() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let tests = only_for_tests(&source);
    // For each folder, which of its files uses which.
    let mut uses = BTreeMap::<String, BTreeSet<(String, String)>>::new();
    for entry in walkdir::WalkDir::new(&source).sort_by_file_name().into_iter().map(Result::unwrap) {
        let inside = entry.path().strip_prefix(&source).unwrap().with_extension("");
        let is_rust = entry.path().extension().is_some_and(|extension| extension == "rs");
        if !is_rust || tests.iter().any(|test| source.join(&inside).starts_with(test)) {
            continue;
        }
        let code = production(&std::fs::read_to_string(entry.path()).unwrap());
        let mut parts: Vec<&str> = inside.iter().map(|part| part.to_str().unwrap()).collect();
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        for up in 1..parts.len() {
            let (folder, own) = (parts[..up].join("::"), parts[up]);
            let others = ["super::".repeat(parts.len() - up), format!("crate::{folder}::")];
            for other in others.iter().flat_map(|prefix| taken_from(&code, prefix)).filter(|other| *other != own) {
                let place = source.join(parts[..up].join("/")).join(other);
                if place.is_dir() || place.with_extension("rs").is_file() {
                    uses.entry(folder.clone()).or_default().insert((own.to_owned(), other.to_owned()));
                }
            }
        }
    }
    assert!(uses.len() > 20 && uses.values().map(BTreeSet::len).sum::<usize>() > 300, "{uses:?}");
    // What uses nothing that is left is no part of a circle, nor is what nothing uses.
    for list in uses.values_mut() {
        while let Some(end) = list.iter().find(|(user, used)| {
            list.iter().all(|(other, _)| other != used) || list.iter().all(|(_, other)| other != user)
        }) {
            let end = end.clone();
            list.remove(&end);
        }
    }
    uses.retain(|_, list| !list.is_empty());
    assert!(uses.is_empty(), "files that use one another: {uses:#?}");
}

/// `docs/architecture.md` names the files from `main` to the inner loop, and each of them calls on the next.
#[test]
fn the_way_to_the_inner_loop_is_the_one_that_is_documented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let way = text.split("\n## ").find(|section| section.starts_with("From `main` to the inner loop")).unwrap();
    let files: Vec<&str> = way.lines().filter_map(|line| line.split_once(". `src/")?.1.split('`').next()).collect();
    assert!((4..=6).contains(&files.len()), "{files:?}");
    let words = ["zero", "one", "two", "three", "four", "five", "six"];
    assert!(way.starts_with(&format!("From `main` to the inner loop in {} files", words[files.len()])), "{way}");
    for pair in files.windows(2) {
        let text = std::fs::read_to_string(root.join("src").join(pair[0])).unwrap();
        let path = pair[1].trim_end_matches(".rs").trim_end_matches("/mod");
        let module = path.rsplit('/').next().unwrap();
        assert!(text.contains(&format!("{module}::")), "src/{} does not call on src/{}", pair[0], pair[1]);
    }
}
