//! Checks on files in memory: parts, contradictions, contents that a hub would not stand by.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::checkpoint::safetensors::{NewTensor, to_bytes};
use crate::ids::Digest;
use crate::source::Bytes;
use crate::tensor::F32;

fn subject(files: &[(&str, SubjectContent)]) -> Subject {
    let items = files.iter().map(|(name, content)| {
        let bytes = match content {
            SubjectContent::There(source) => source.len(),
            _ => 0,
        };
        ((*name).to_owned(), SubjectFile { name: (*name).to_owned(), bytes, content: content.clone(), cached: false })
    });
    Subject { label: "m".to_owned(), revision: None, items: items.collect(), single: false }
}

fn there(bytes: &[u8]) -> SubjectContent {
    SubjectContent::There(Arc::new(Bytes::new("f", bytes)))
}

fn reference(kind: &'static str, name: &str, expected: Vec<Expected>) -> Reference {
    Reference {
        kind,
        name: kind.to_owned(),
        expected: BTreeMap::from([(name.to_owned(), expected)]),
        ..Reference::default()
    }
}

fn stated(bytes: &[u8]) -> Expected {
    Expected::hash(Digest::of(bytes).into())
}

#[test]
fn what_is_not_hashed_is_never_ok_and_statements_are_held_against_each_other() {
    let tensor = NewTensor { name: "a", dtype: &F32, shape: &[1], bytes: &[0; 4] };
    let subject = subject(&[("a.safetensors", there(&to_bytes(&[tensor], &BTreeMap::new()).unwrap()))]);
    let hub = reference("hub", "a.safetensors", vec![stated(b"x")]);
    let same = verify(&subject, &[hub.clone(), reference("manifest", "a.safetensors", vec![stated(b"x")])], &Unwatched);
    assert_eq!((same.files[0].outcome("digest"), same.result), (CheckOutcome::NotChecked, VerifiedEnding::NotHashed));
    assert_eq!((same.counts.hashed, same.counts.not_hashed), (0, 1));
    let other = verify(&subject, &[hub, reference("manifest", "a.safetensors", vec![stated(b"y")])], &Unwatched);
    assert_eq!((other.files[0].outcome("digest"), other.result), (CheckOutcome::Differs, VerifiedEnding::Differs));
}

#[test]
fn parts_must_cover_a_file_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let part = |range: std::ops::Range<u64>, bytes: &[u8]| Expected { range: Some(range), ..stated(bytes) };
    let run = |contents: &[u8], parts: &[Expected]| {
        std::fs::write(&path, contents).unwrap();
        let mut subject = subject(&[("f", SubjectContent::Here(path.clone()))]);
        subject.items.get_mut("f").unwrap().bytes = contents.len() as u64;
        verify(&subject, &[reference("signature", "f", parts.to_vec())], &Unwatched).files[0].outcome("digest")
    };
    let parts = [part(0..4, b"abcd"), part(4..6, b"ef")];
    assert_eq!(run(b"abcdef", &parts), CheckOutcome::Ok);
    assert_eq!(run(b"abcdeg", &parts), CheckOutcome::Differs);
    assert_eq!(run(b"abcdefg", &parts), CheckOutcome::Differs);
    assert_eq!(run(b"abcde", &parts), CheckOutcome::Differs);
    assert_eq!(run(b"abcdef", &parts[1..]), CheckOutcome::Differs);
}

#[test]
fn wrong_contents_and_unreadable_files_are_outcomes_of_their_own() {
    let wrong = subject(&[("a.bin", SubjectContent::Wrong("not what is listed".to_owned()))]);
    let found = verify(&wrong, &[reference("hub", "a.bin", vec![stated(b"x")])], &Unwatched);
    assert_eq!((found.files[0].outcome("digest"), found.result), (CheckOutcome::Differs, VerifiedEnding::Differs));
    // Nobody states anything of it, and its name promises nothing: still not clean.
    let unreadable = subject(&[("notes", SubjectContent::Unreadable("no permission".to_owned()))]);
    let found = verify(&unreadable, &[], &Unwatched);
    assert_eq!((found.files[0].gravest(), found.result), (CheckOutcome::Failed, VerifiedEnding::Incomplete));
}

#[test]
fn every_check_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<&str> = CHECKS.iter().map(|check| check.name()).collect();
    assert_eq!(names.len(), CHECKS.len());
}

#[test]
fn a_statement_narrowed_to_one_file_finds_it_in_its_folder() {
    let mut one = reference("hub", "sub/a.gguf", vec![stated(b"x")]);
    one.narrow("a.gguf");
    assert!(one.expected.contains_key("a.gguf"));
    let mut two = reference("hub", "sub/a.gguf", vec![stated(b"x")]);
    two.expected.insert("other/a.gguf".to_owned(), vec![stated(b"y")]);
    two.narrow("a.gguf");
    assert!(two.expected.is_empty());
}
