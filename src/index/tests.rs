//! Tests of the index as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::samples::{SEVERITIES, at, examination, with_variants};
use super::*;
use crate::examination::{
    Claim, Orthogonalization, RELATIONS, Relation, STATUSES, Severity, Status, Strength, VERDICTS, Verdict,
};
use crate::profile::names;
use crate::signature::{Catalogue, finding_id};

/// Rows of every table.
fn sizes(index: &Index) -> BTreeMap<String, i64> {
    let connection = index.connection();
    let mut statement = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'repository_search%'")
        .unwrap();
    let names: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(|name| name.unwrap()).collect();
    names
        .into_iter()
        .map(|name| {
            let rows = connection.query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get(0)).unwrap();
            (name, rows)
        })
        .collect()
}

/// An index with examinations of the seeds below `count`, one a second.
fn filled(count: u64) -> Index {
    let mut index = Index::in_memory().unwrap();
    for seed in 0..count {
        index.record(&examination(seed), at(seed as i64)).unwrap();
    }
    index
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn an_examination_comes_back_equal(seed in any::<u64>()) {
        let examination = examination(seed);
        let mut index = Index::in_memory().unwrap();
        let recorded = index.record(&examination, at(0)).unwrap();
        prop_assert!(recorded.new);
        let stored = index.get(&recorded.id.hex()[..20]).unwrap().unwrap();
        prop_assert_eq!(&stored.examination, &examination);
        prop_assert_eq!(stored.id, examination.id());
        prop_assert_eq!(stored.examination.id(), examination.id());
        prop_assert_eq!(stored.runs, 1);
    }
}

#[test]
fn recording_again_adds_nothing_but_a_run() {
    let mut index = filled(20);
    let before = sizes(&index);
    for seed in 0..20 {
        let mut again = examination(seed);
        again.coverage.bytes_read = 7;
        let recorded = index.record(&again, at(100)).unwrap();
        assert!(!recorded.new && !recorded.judged_anew);
    }
    assert_eq!(sizes(&index), before);
    let stored = index.get(&examination(3).id().hex()).unwrap().unwrap();
    assert_eq!((stored.runs, stored.first_seen, stored.last_seen), (2, at(3), at(100)));
    assert_eq!(stored.examination.coverage.bytes_read, 7);
}

#[test]
fn another_judgement_takes_the_place_of_the_old_one_which_is_kept() {
    let mut index = Index::in_memory().unwrap();
    let old = examination(5);
    let id = index.record(&old, at(0)).unwrap().id;
    let mut new = old.clone();
    new.tool.catalogue = Digest::of(b"another catalogue").to_string();
    new.verdict = if old.verdict == Verdict::Clear { Verdict::Suspect } else { Verdict::Clear };
    new.because = "for another reason".to_owned();
    new.findings.clear();
    new.orthogonalization = Some(Orthogonalization::default());
    let recorded = index.record(&new, at(60)).unwrap();
    assert_eq!((recorded.id, recorded.new, recorded.judged_anew), (id, false, true));
    let stored = index.get(&id.hex()).unwrap().unwrap();
    assert_eq!(stored.examination, new);
    assert_eq!(stored.judged_at, at(60));
    let past = index.past_judgements(&id.hex()).unwrap();
    assert_eq!(past.len(), 1);
    assert_eq!((past[0].verdict, &past[0].catalogue), (old.verdict, &old.tool.catalogue));
    assert_eq!((past[0].judged_at, past[0].superseded_at), (at(0), at(60)));
    assert_eq!(past[0].document["findings"], serde_json::to_value(&old.findings).unwrap());
    // And back: the history grows, the row count of the current judgement does not.
    assert!(index.record(&old, at(90)).unwrap().judged_anew);
    assert_eq!(index.past_judgements(&id.hex()).unwrap().len(), 2);
    assert_eq!(index.get(&id.hex()).unwrap().unwrap().examination, old);
}

#[test]
fn lengths_that_add_up_to_more_than_an_integer_are_stored() {
    let mut one = examination(1);
    let huge = |name: &str| crate::examination::FileDigest { name: name.to_owned(), bytes: u64::MAX, sha256: None };
    one.base.files = vec![huge("a"), huge("b")];
    Index::in_memory().unwrap().record(&one, at(0)).unwrap();
}

#[test]
fn variants_come_back_and_another_one_may_decide() {
    let mut index = Index::in_memory().unwrap();
    let seed = (0..).find(|seed| with_variants(*seed).variants.iter().all(|one| one.profile.is_some())).unwrap();
    let mut whole = with_variants(seed);
    whole.variants.iter_mut().for_each(|variant| variant.verdict = Verdict::Clear);
    whole.variants[0].profile.as_mut().unwrap().tensors.truncate(1);
    crate::judge::combine::decide(&mut whole);
    let id = index.record(&whole, at(0)).unwrap().id.hex();
    assert_eq!(index.get(&id).unwrap().unwrap().examination, whole);
    let before = sizes(&index);
    assert_eq!(before["variant"], 3);
    whole.variants[2].verdict = Verdict::Orthogonalized;
    crate::judge::combine::decide(&mut whole);
    let recorded = index.record(&whole, at(1)).unwrap();
    assert_eq!((recorded.id.hex(), recorded.new, recorded.judged_anew), (id.clone(), false, true));
    assert_eq!(index.get(&id).unwrap().unwrap().examination, whole, "measurements of the one that decides now");
    assert_eq!(sizes(&index)["variant"], 3);
}

#[test]
fn a_catalogue_that_says_the_same_leaves_no_history() {
    let mut index = Index::in_memory().unwrap();
    let mut examination = examination(6);
    let id = index.record(&examination, at(0)).unwrap().id.hex();
    examination.tool.catalogue = Digest::of(b"another catalogue").to_string();
    assert!(!index.record(&examination, at(1)).unwrap().judged_anew);
    assert_eq!(index.get(&id).unwrap().unwrap().examination, examination);
    assert!(index.past_judgements(&id).unwrap().is_empty());
}

#[test]
fn every_word_of_every_enumeration_can_be_stored() {
    let mut index = Index::in_memory().unwrap();
    for (number, relation) in RELATIONS.into_iter().enumerate() {
        let mut one = examination(9);
        one.candidate.source = format!("hf:a/{number}");
        one.relation = relation;
        one.status = STATUSES[number % STATUSES.len()];
        one.verdict = VERDICTS[number % VERDICTS.len()];
        index.record(&one, at(0)).unwrap();
        assert_eq!(index.get(&one.id().hex()).unwrap().unwrap().examination, one);
    }
}

#[test]
fn numbers_that_are_not_numbers_are_kept_as_such() {
    let mut index = Index::in_memory().unwrap();
    let mut seeds = (0..).map(examination).filter(|one| one.profile.as_ref().is_some_and(|p| !p.tensors.is_empty()));
    let mut one = seeds.next().unwrap();
    let profile = one.profile.as_mut().unwrap();
    profile.tensors[0].cosine = f64::NAN;
    profile.tensors[0].shape = [u64::MAX, 1];
    profile.model.put(names::DELTA_COSINE, f64::NAN);
    let id = index.record(&one, at(0)).unwrap().id;
    let stored = index.get(&id.hex()).unwrap().unwrap().examination.profile.unwrap();
    assert!(stored.tensors[0].cosine.is_nan() && stored.model["delta.cosine"].is_nan());
    assert_eq!(stored.tensors[0].shape[0], i64::MAX as u64);
}

#[test]
fn ids_can_be_shortened_until_they_are_ambiguous() {
    let index = filled(40);
    assert_eq!(index.get("zz").unwrap(), None);
    assert_eq!(index.get("").unwrap(), None);
    let ids: Vec<String> = (0..40).map(|seed| examination(seed).id().hex()).collect();
    let twice = ids.iter().map(|id| &id[..1]).find(|first| ids.iter().filter(|id| id.starts_with(first)).count() > 1);
    assert_eq!(index.get(twice.unwrap()).unwrap_err().kind, ErrorKind::Usage);
}

#[test]
fn pages_in_every_order_join_up() {
    let index = filled(57);
    let all: BTreeSet<Digest> = (0..57).map(|seed| examination(seed).id()).collect();
    for order in [ListOrder::Newest, ListOrder::Severity, ListOrder::Recorded] {
        let mut rows = Vec::new();
        let mut page = PageBounds { limit: 10, after: None };
        loop {
            let paged = index.examinations(&ExaminationFilter::default(), order, page).unwrap();
            rows.extend(paged.rows);
            let Some(next) = paged.next else { break };
            page.after = Some(next.to_string().parse().unwrap());
        }
        assert_eq!(rows.len(), 57, "{order:?}");
        assert_eq!(rows.iter().map(|row| row.id).collect::<BTreeSet<_>>(), all);
        let keys: Vec<_> = rows.iter().map(|row| (row.severity, row.last_seen)).collect();
        let sorted = match order {
            ListOrder::Newest => keys.windows(2).all(|pair| pair[0].1 >= pair[1].1),
            ListOrder::Severity => keys.windows(2).all(|pair| pair[0] >= pair[1]),
            ListOrder::Recorded => keys.windows(2).all(|pair| pair[0].1 <= pair[1].1),
        };
        assert!(sorted, "{order:?}");
    }
    assert!("1.2.3".parse::<Cursor>().is_err() && "1.2.3.x".parse::<Cursor>().is_err());
}

#[test]
fn findings_are_paged_and_filtered() {
    let index = filled(60);
    let expected: Vec<_> = (0..60).flat_map(|seed| examination(seed).findings).collect();
    for signature in [None, Some("row-scaled")] {
        for severity in SEVERITIES {
            let filter = FindingFilter {
                examinations: ExaminationFilter {
                    severity: Some(severity),
                    signature: signature.map(str::to_owned),
                    ..ExaminationFilter::default()
                },
            };
            let mut rows = Vec::new();
            let mut page = PageBounds { limit: 4, after: None };
            loop {
                let paged = index.findings(&filter, page).unwrap();
                rows.extend(paged.rows);
                page.after = paged.next;
                if page.after.is_none() {
                    break;
                }
            }
            let wanted = expected.iter().filter(|finding| {
                finding.severity >= severity && signature.is_none_or(|signature| finding.signature == signature)
            });
            assert_eq!(rows.len(), wanted.count());
            assert!(rows.windows(2).all(|pair| pair[0].examination.severity >= pair[1].examination.severity));
        }
    }
    let one = &expected[0];
    let found = index.finding(&one.id).unwrap();
    assert!(found.iter().any(|row| row.finding == *one));
}

#[test]
fn filters_let_through_what_they_say() {
    let index = filled(80);
    let count = |filter: ExaminationFilter| {
        index.examinations(&filter, ListOrder::Newest, PageBounds { limit: 1000, after: None }).unwrap().rows.len()
    };
    let expect = |keep: &dyn Fn(&Examination) -> bool| (0..80).filter(|seed| keep(&examination(*seed))).count();
    let all = ExaminationFilter::default;
    for verdict in VERDICTS {
        assert_eq!(
            count(ExaminationFilter { verdicts: vec![verdict], ..all() }),
            expect(&|one| one.verdict == verdict)
        );
    }
    let two = vec![Verdict::Clear, Verdict::Suspect];
    assert_eq!(count(ExaminationFilter { verdicts: two.clone(), ..all() }), expect(&|one| two.contains(&one.verdict)));
    let high = |one: &Examination| one.findings.iter().any(|finding| finding.severity == Severity::High);
    assert_eq!(count(ExaminationFilter { severity: Some(Severity::High), ..all() }), expect(&high));
    let with = |one: &Examination| one.findings.iter().any(|finding| finding.signature == "fine-tune");
    assert_eq!(count(ExaminationFilter { signature: Some("fine-tune".into()), ..all() }), expect(&with));
    assert_eq!(count(ExaminationFilter { since: Some(at(70)), ..all() }), 10);
    assert_eq!(count(ExaminationFilter { until: Some(at(70)), ..all() }), 70);
    let owned = |one: &Examination| one.candidate.source.starts_with("hf:owner-2/");
    assert_eq!(count(ExaminationFilter { owner: Some("owner-2".into()), ..all() }), expect(&owned));
    assert_eq!(count(ExaminationFilter { search: Some("owner-2/mod".into()), ..all() }), expect(&owned));
    let based = |one: &Examination| one.base.source == "hf:owner-1/model-1";
    assert_eq!(count(ExaminationFilter { base: Some("hf:owner-1/model-1".into()), ..all() }), expect(&based));
    assert_eq!(
        index.history("hf:owner-1/model-1").unwrap().len(),
        expect(&|one| one.candidate.source == "hf:owner-1/model-1")
    );
}

#[test]
fn names_are_found_by_any_part_and_by_hostile_text() {
    let mut index = Index::in_memory().unwrap();
    for (number, source) in ["hf:org/Alpha-7B", "hf:org/100%_\"x\"", "local/folder"].into_iter().enumerate() {
        let mut one = examination(number as u64);
        one.candidate.source = source.to_owned();
        one.base.source = "hf:org/base".to_owned();
        index.record(&one, at(0)).unwrap();
    }
    let names =
        |text: &str| -> Vec<String> { index.search(text, 10).unwrap().into_iter().map(|row| row.source).collect() };
    assert_eq!(names("alpha"), ["hf:org/Alpha-7B"]);
    assert_eq!(names("7b"), ["hf:org/Alpha-7B"]);
    assert_eq!(names("%_"), ["hf:org/100%_\"x\""]);
    assert_eq!(names("_\"x\""), ["hf:org/100%_\"x\""]);
    assert_eq!(names("org/").len(), 3);
    assert_eq!(index.search("org/base", 10).unwrap()[0].examinations, 0);
    for hostile in ["", "\"", "a\"b\"c", "NEAR(", "* OR *", "\u{0}\u{0}\u{0}", "'; DROP TABLE x; --"] {
        index.search(hostile, 10).unwrap();
    }
}

#[test]
fn export_gives_everything_in_the_order_of_recording() {
    let index = filled(30);
    let all: Vec<_> = index.export(&ExaminationFilter::default()).map(|stored| stored.unwrap().examination).collect();
    assert_eq!(all, (0..30).map(examination).collect::<Vec<_>>());
    let filter = ExaminationFilter { verdicts: vec![Verdict::Clear], ..ExaminationFilter::default() };
    assert!(index.export(&filter).all(|stored| stored.unwrap().examination.verdict == Verdict::Clear));
}

#[test]
fn the_latest_examination_of_a_revision_is_known() {
    let mut index = Index::in_memory().unwrap();
    let mut one = examination(1);
    one.base.source = "hf:org/base".to_owned();
    one.candidate.source = "hf:org/candidate".to_owned();
    one.candidate.revision = Some("abc".to_owned());
    let id = index.record(&one, at(0)).unwrap().id;
    let latest = |revision: &str, version: &str| {
        index.latest("hf:org/candidate", revision, "hf:org/base", version).unwrap().map(|row| row.id)
    };
    assert_eq!(latest("abc", "0.1.0"), Some(id));
    assert_eq!(latest("abc", "0.2.0"), None);
    assert_eq!(latest("abd", "0.1.0"), None);
}

#[test]
fn judging_again_changes_only_what_is_judged() {
    let mut index = filled(40);
    let catalogue = Catalogue::builtin().unwrap();
    let judged = |mut one: Examination| {
        let id = one.id();
        if one.candidate.source.is_empty() {
            panic!("a defect");
        }
        let profile = one.profile.take().unwrap_or_default();
        one.findings = catalogue.judge(&profile).iter().map(|held| held.finding(&id)).collect();
        one.verdict = Verdict::Inconclusive;
        one.coverage.tensors = 12345;
        Ok(one)
    };
    let with_profile: Vec<_> = (0..40).map(examination).filter(|one| one.profile.is_some()).collect();
    let outcome = index.rejudge(&catalogue, false, at(500), judged, |_| true).unwrap();
    let failing = with_profile.iter().filter(|one| one.candidate.source.is_empty()).count();
    assert_eq!(outcome.failed.len(), failing);
    assert_eq!(outcome.judged as usize, with_profile.len() - failing);
    assert_eq!(outcome.without_measurements as usize, 40 - with_profile.len());
    assert!(!outcome.changed.is_empty());
    for old in &with_profile {
        let new = index.get(&old.id().hex()).unwrap().unwrap().examination;
        assert_eq!((&new.profile, &new.coverage), (&old.profile, &old.coverage));
        if !old.candidate.source.is_empty() {
            assert_eq!(new.tool.catalogue, catalogue.hash().to_string());
            assert!(new.findings.iter().all(|finding| finding.id == finding_id(&old.id(), &finding.signature)));
            for finding in &new.findings {
                let text = index.signature_text(&finding.signature_hash).unwrap().unwrap();
                assert_eq!(text, catalogue.get(&finding.signature).unwrap().text);
            }
        }
    }
    let again = index.rejudge(&catalogue, false, at(600), judged, |_| true).unwrap();
    assert_eq!((again.judged, again.failed.len()), (0, failing));
    let all = index.rejudge(&catalogue, true, at(700), judged, |_| true).unwrap();
    assert_eq!((all.judged as usize, all.changed.len()), (with_profile.len() - failing, 0));
}

/// The lists that people page through come from an index in order: nothing is sorted, whatever the size.
#[test]
fn lists_are_read_from_an_index_in_order() {
    let index = filled(5);
    let plan = |sql: &str| -> String {
        let mut statement = index.connection().prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let lines: Vec<String> = statement.query_map([], |row| row.get(3)).unwrap().map(|line| line.unwrap()).collect();
        lines.join("; ")
    };
    for sql in [
        "SELECT * FROM examination e ORDER BY e.last_seen DESC, e.key DESC LIMIT 50",
        "SELECT * FROM examination e ORDER BY e.severity DESC, e.last_seen DESC, e.key DESC LIMIT 50",
        "SELECT * FROM examination e WHERE e.verdict IN ('suspect') ORDER BY e.severity DESC, e.last_seen DESC, e.key DESC LIMIT 50",
        "SELECT * FROM examination e WHERE e.base_repository = 1 ORDER BY e.severity DESC, e.last_seen DESC, e.key DESC LIMIT 50",
        "SELECT * FROM examination e CROSS JOIN finding f ON f.examination = e.key WHERE e.severity >= 2
         ORDER BY e.severity DESC, e.last_seen DESC, e.key DESC, f.ordinal LIMIT 50",
    ] {
        let plan = plan(sql);
        assert!(!plan.contains("TEMP B-TREE") && plan.contains("USING INDEX"), "{sql}\n{plan}");
    }
}

/// Every table and every column says what it is, where `.schema` shows it.
#[test]
fn the_schema_explains_itself() {
    let index = Index::in_memory().unwrap();
    let mut statement = index
        .connection()
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' AND name NOT LIKE 'repository_search%' AND name NOT LIKE 'sqlite_%'")
        .unwrap();
    let tables: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(|row| row.unwrap()).collect();
    assert!(tables.len() > 15);
    let files = STEPS.concat();
    for (name, sql) in tables {
        assert!(sql.contains("STRICT"), "{name} is not STRICT");
        let before = files.split(&format!("CREATE TABLE {name} (")).next().unwrap();
        assert!(before.trim_end().lines().last().unwrap().starts_with("--"), "table {name} is not explained");
        for line in sql.lines().skip(1).filter(|line| line.starts_with("    ") && !line.starts_with("     ")) {
            let column = line.trim().split(' ').next().unwrap();
            if !matches!(column, "PRIMARY" | "CHECK" | "UNIQUE") {
                assert!(line.contains("-- "), "{name}.{column} is not explained");
            }
        }
    }
}

#[test]
fn only_an_index_of_this_or_an_older_schema_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    assert_eq!(Index::open_read_only(&path).err().unwrap().kind, ErrorKind::NotFound);
    drop(Index::open(&path).unwrap());
    Index::open_read_only(&path).unwrap();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(Index::open(&path).err().unwrap().doing.contains("newer"));

    let other = folder.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    assert_eq!(Index::open(&other).err().unwrap().kind, ErrorKind::Usage);
    let junk = folder.path().join("junk.db");
    fs::write(&junk, [7u8; 5000]).unwrap();
    assert_eq!(Index::open(&junk).err().unwrap().kind, ErrorKind::Index);
}

/// Processes differ from threads in nothing that SQLite sees: each has a connection of its own.
#[test]
fn many_may_make_an_index_at_once() {
    for round in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let together = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let (path, together) = (&path, &together);
                scope.spawn(move || {
                    together.wait();
                    let mut index =
                        Index::open(path).unwrap_or_else(|error| panic!("round {round}: {}", error.one_line()));
                    index.record(&examination(seed), at(0)).unwrap();
                });
            }
        });
        assert_eq!(sizes(&Index::open_read_only(&path).unwrap())["examination"], 8);
    }
}

#[test]
fn a_file_that_lost_its_contents_is_not_a_new_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    for length in [0, 1, 100, 511] {
        fs::write(&path, vec![b'S'; length]).unwrap();
        let told = if length == 0 { "an empty file" } else { "too short" };
        for opened in [Index::open_read_only(&path), Index::open_to_read(&path), Index::open_existing(&path)] {
            let error = opened.err().unwrap();
            assert!(error.kind == ErrorKind::Index && error.doing.contains(told), "{length} bytes: {error}");
        }
        // Whoever makes a file to be filled (mktemp) makes an empty one.
        assert_eq!(Index::open(&path).is_ok(), length == 0, "{length} bytes");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
#[cfg(unix)]
fn an_index_is_its_users_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    let mut index = Index::open(&path).unwrap();
    index.record(&examination(1), at(0)).unwrap();
    index.snapshot(&folder.path().join("copy.db")).unwrap();
    for file in fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.file_name());
    }
}

/// A link in the place of the file that SQLite must be able to make, which it follows nowhere: to it that is what
/// read-only media are, for root too.
#[cfg(unix)]
#[test]
fn an_index_is_read_where_nothing_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    // What means something in an address means nothing in a name.
    let path = folder.path().join("a?mode=rwc&x#%20.db");
    let mut index = Index::open(&path).unwrap();
    let id = index.record(&examination(1), at(0)).unwrap().id.hex();
    drop(index);
    let beside = |end: &str| PathBuf::from(format!("{}{end}", path.display()));
    std::os::unix::fs::symlink("nowhere", beside("-shm")).unwrap();
    assert_eq!(Index::open(&path).err().unwrap().kind, ErrorKind::Index);
    for index in [Index::open_read_only(&path).unwrap(), Index::open_to_read(&path).unwrap()] {
        assert!(index.is_frozen());
        assert_eq!(index.get(&id).unwrap().unwrap().examination, examination(1));
    }
    fs::write(beside("-wal"), b"changes").unwrap();
    let error = Index::open_read_only(&path).err().unwrap();
    assert!(error.doing.contains("last changes"), "{error}");
}

#[test]
fn an_older_schema_is_brought_up_to_date_to_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    fs::copy(fixtures().join("0004.db"), &path).unwrap();
    assert!(Index::open_read_only(&path).err().unwrap().doing.contains("it has schema 4"));
    let index = Index::open_to_read(&path).unwrap();
    assert!(!index.is_frozen());
    assert_eq!(index.without_checksum().unwrap(), 10);
    assert!(index.broken_examinations().unwrap().is_empty());
}

/// Another value in any column of any row of an examination is noticed, and the others are read all the same.
#[test]
fn what_changed_inside_rows_is_noticed_and_passed_over() {
    let mut index = Index::in_memory().unwrap();
    let all: Vec<Examination> = (0..8).map(examination).chain((8..10).map(with_variants)).collect();
    for (second, one) in (0..).zip(&all) {
        index.record(one, at(second)).unwrap();
        // A past judgement as well.
        let mut again = one.clone();
        again.because.push_str(", and more");
        index.record(&again, at(50)).unwrap();
    }
    let intact = |index: &Index| index.export(&ExaminationFilter::default()).filter(Result::is_ok).count();
    assert_eq!((intact(&index), index.broken_examinations().unwrap().len()), (10, 0));
    let tables = [
        "examination",
        "side",
        "side_file",
        "repository",
        "catalogue",
        "not_examined",
        "anomaly",
        "claim_evidence",
        "orthogonalization",
        "orthogonalization_layer",
        "recipe",
        "strength",
        "finding",
        "past_judgement",
        "model_measurement",
        "measurement_name",
        "tensor_measurement",
        "word",
        "variant",
    ];
    index.connection().execute_batch("PRAGMA foreign_keys = 0; PRAGMA ignore_check_constraints = 1").unwrap();
    let mut tried = 0;
    for table in tables {
        let columns: Vec<(String, String)> = index
            .connection()
            .prepare(&format!("SELECT name, type FROM pragma_table_info('{table}')"))
            .and_then(|mut statement| statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .unwrap();
        let place = match table {
            "examination" | "side" | "repository" | "catalogue" | "measurement_name" | "word" => "key",
            "side_file" => "side",
            _ => "examination",
        };
        for (column, kind) in columns {
            // When a catalogue was first used is nothing of an examination. The number of an examination itself is what
            // its rows are found by: SQLite's own check sees it out of order.
            if column == "first_used" || (table, column.as_str()) == ("examination", "key") {
                continue;
            }
            let others = match kind.as_str() {
                "INTEGER" => vec![format!("{column} + 1000000")],
                "REAL" => vec![format!("iif({column} = 0, 1.0, -{column})")],
                "BLOB" => vec![format!("CAST({column} || x'ff' AS BLOB)")],
                // Still text, and no text any more.
                _ => vec![format!("{column} || '.'"), format!("CAST(CAST({column} AS BLOB) || x'ff' AS TEXT)")],
            };
            for other in others {
                let sql = format!(
                    "UPDATE {table} SET {column} = {other}
                     WHERE {place} = (SELECT min({place}) FROM {table} WHERE {column} IS NOT NULL)"
                );
                index.connection().execute_batch("SAVEPOINT before").unwrap();
                if index.connection().execute(&sql, []).unwrap() > 0 {
                    tried += 1;
                    assert!(intact(&index) < 10, "{table}.{column}: {sql}");
                    assert!(!index.broken_examinations().unwrap().is_empty(), "{table}.{column}");
                    let told = index.export(&ExaminationFilter::default()).count();
                    assert!(told == 10, "{table}.{column}: {told} of 10 are told of");
                }
                index.connection().execute_batch("ROLLBACK TO before; RELEASE before").unwrap();
            }
        }
    }
    assert!(tried > 100, "{tried} columns");
    assert_eq!(intact(&index), 10);
}

#[test]
fn a_broken_row_is_not_made_whole_by_recording_or_judging_again() {
    let mut index = filled(8);
    let seed = (0..8).find(|seed| examination(*seed).profile.is_some()).unwrap();
    let id = examination(seed).id();
    let harm = "UPDATE examination SET tensors = tensors + 1 WHERE id = ?1";
    index.connection().execute(harm, [id.hex()]).unwrap();
    index.record(&examination(seed), at(100)).unwrap();
    assert!(index.get(&id.hex()).unwrap_err().doing.contains("checksum"));
    let catalogue = Catalogue::builtin().unwrap();
    let outcome = index.rejudge(&catalogue, true, at(200), Ok, |_| true).unwrap();
    assert_eq!(outcome.failed.len(), 1);
    assert_eq!(outcome.failed[0].0, id);
    assert_eq!(index.broken_examinations().unwrap().len(), 1);
}

#[test]
fn the_strength_of_a_variant_is_that_of_the_reports() {
    let whole = (0..).map(with_variants).find(|one| one.variants.iter().any(|two| two.orthogonalization.is_some()));
    let mut whole = whole.unwrap();
    let evidence = whole.variants.iter_mut().find_map(|one| one.orthogonalization.as_mut()).unwrap();
    let strength = |lambda| Strength { layer: 0, module: "o_proj".to_owned(), expert: None, lambda, stderr: 0.0 };
    evidence.strength = [0.0, 0.9, 0.0, 0.0, 0.7].map(strength).to_vec();
    let expected: Vec<Option<f64>> = (whole.variants.iter())
        .map(|one| one.orthogonalization.as_ref().and_then(Orthogonalization::median_strength))
        .collect();
    assert!(expected.contains(&Some(0.8)), "{expected:?}");
    let mut index = Index::in_memory().unwrap();
    index.record(&whole, at(0)).unwrap();
    let mut statement = index.connection().prepare("SELECT strength FROM variant ORDER BY ordinal").unwrap();
    let stored: Vec<Option<f64>> = statement.query_map([], |row| row.get(0)).unwrap().map(|row| row.unwrap()).collect();
    assert_eq!(stored, expected);
}

#[test]
fn oddities_by_the_words_of_earlier_versions_come_back_as_they_were_written() {
    let mut old = examination(1);
    let odd = |kind: &str| crate::checkpoint::Anomaly {
        kind: kind.to_owned(),
        file: "model.gguf".to_owned(),
        tensor: None,
        detail: "ends early".to_owned(),
    };
    old.anomalies =
        ["no-word-of-any-version", "out-of-file", "unreadable-shard", "zip-in-safetensors"].map(odd).to_vec();
    let mut index = Index::in_memory().unwrap();
    let id = index.record(&old, at(0)).unwrap().id;
    assert_eq!(index.get(&id.hex()).unwrap().unwrap().examination, old);
}

#[test]
fn lists_as_long_as_a_file_likes_are_kept_in_part() {
    use crate::examination::{Claim, ClaimEvidence, NotExamined};
    use crate::limits::{MAX_ANOMALIES, MAX_CLAIM_EVIDENCE, MAX_NOT_EXAMINED};
    let long = |mut one: Examination| {
        let missing = |number| NotExamined { tensor: format!("t{number:06}"), reason: "unread".to_owned() };
        one.coverage.not_examined = (0..5_000).map(missing).collect();
        let odd = |number: u32| crate::checkpoint::Anomaly {
            kind: "gap".to_owned(),
            file: "f".to_owned(),
            tensor: None,
            detail: number.to_string(),
        };
        one.anomalies = (0..5_000).map(odd).collect();
        let says = |number: u32| ClaimEvidence { from: "card".to_owned(), says: number.to_string() };
        one.claim = Some(Claim { evidence: (0..5_000).map(says).collect(), ..Claim::default() });
        one
    };
    let mut whole = with_variants(0);
    whole.variants = whole.variants.into_iter().map(long).collect();
    let mut index = Index::in_memory().unwrap();
    for one in [long(examination(1)), long(whole)] {
        let id = index.record(&one, at(0)).unwrap().id;
        assert_eq!(id, one.id(), "the id is of all that was measured");
        let stored = index.get(&id.hex()).unwrap().unwrap().examination;
        for part in std::iter::once(&stored).chain(&stored.variants) {
            let lengths =
                [part.coverage.not_examined.len(), part.anomalies.len(), part.claim.as_ref().unwrap().evidence.len()];
            assert_eq!(lengths, [MAX_NOT_EXAMINED + 1, MAX_ANOMALIES + 1, MAX_CLAIM_EVIDENCE + 1]);
            assert_eq!(part.coverage.not_examined[0].tensor, "t000000");
            assert_eq!(part.coverage.not_examined.last().unwrap().reason, "4000 more are not listed");
        }
        let again = index.record(&one, at(1)).unwrap();
        assert!(!again.new && !again.judged_anew);
        assert!(index.record(&stored, at(2)).is_ok());
    }
    // An index of an earlier version has them all.
    let key: i64 = index.connection().query_row("SELECT min(key) FROM examination", [], |row| row.get(0)).unwrap();
    index
        .connection()
        .execute_batch(&format!(
            "DELETE FROM checksum; WITH RECURSIVE n(i) AS (SELECT 2000 UNION ALL SELECT i + 1 FROM n WHERE i < 9998)
             INSERT INTO not_examined SELECT {key}, i, 'x', 'y' FROM n"
        ))
        .unwrap();
    let stored = load::stored(index.connection(), key).unwrap().examination.coverage.not_examined;
    assert_eq!(stored.len(), MAX_NOT_EXAMINED + 1);
    assert_eq!(stored.last().unwrap().reason, "8000 more are not listed");
}

#[test]
fn a_snapshot_is_an_index_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let index = filled(6);
    let copy = folder.path().join("copy.db");
    index.snapshot(&copy).unwrap();
    assert!(index.snapshot(&copy).is_err());
    let copy = Index::open_read_only(&copy).unwrap();
    assert_eq!(sizes(&copy), sizes(&index));
    assert!(copy.integrity().unwrap().is_empty());
}

fn line(examination: &Examination) -> String {
    String::from_utf8(crate::examination::canonical_json(examination)).unwrap()
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/index")
}

/// Schemas before this one were never released.
const FIRST_RELEASED: usize = 3;

fn fixture_examinations() -> Vec<Examination> {
    (0..8).map(examination).chain((8..10).map(with_variants)).collect()
}

/// A database of each released schema opens, comes up to date and still holds what it held. With the environment
/// variable `ORTHOSCOPE_WRITE_FIXTURE` set, the one of the current schema is written anew (before its release).
#[test]
fn a_database_of_every_released_schema_opens() {
    let current = fixtures().join(format!("{SCHEMA_VERSION:04}.db"));
    if std::env::var_os("ORTHOSCOPE_WRITE_FIXTURE").is_some() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let mut index = Index::open(&path).unwrap();
        for (second, one) in (0..).zip(fixture_examinations()) {
            index.record(&one, at(second)).unwrap();
        }
        let _ = fs::remove_file(&current);
        index.snapshot(&current).unwrap();
        let lines: Vec<String> = fixture_examinations().iter().map(line).collect();
        fs::write(current.with_extension("jsonl"), lines.join("\n") + "\n").unwrap();
    }
    for version in FIRST_RELEASED..=SCHEMA_VERSION {
        let fixture = fixtures().join(format!("{version:04}.db"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        fs::copy(&fixture, &path).unwrap();
        let index = Index::open(&path).unwrap();
        assert!(index.integrity().unwrap().is_empty());
        let lines = fs::read_to_string(fixture.with_extension("jsonl")).unwrap();
        let stored: Vec<String> =
            index.export(&ExaminationFilter::default()).map(|stored| line(&stored.unwrap().examination)).collect();
        assert!(stored == lines.lines().collect::<Vec<_>>(), "schema {version} holds something else");
    }
}

/// A false claim of a base, and one that nothing could be held against, wait for a decision as a finding of low
/// severity does, until it is judged otherwise.
#[test]
fn a_false_claim_is_of_low_severity_as_long_as_it_is_one() {
    use super::triage::{Sort, TriageFilter};
    let mut one = examination(1);
    one.status = Status::Complete;
    one.findings.clear();
    one.relation = Relation::FineTuned;
    one.claim = Some(Claim { base: Some("hf:a/b".to_owned()), holds: Some(false), ..Claim::default() });
    let mut index = Index::in_memory().unwrap();
    index.record(&one, at(0)).unwrap();
    let row = |index: &Index| index.triage(&TriageFilter::default(), Sort::Severity, None, 1).unwrap().items.remove(0);
    assert_eq!((row(&index).severity, row(&index).claim.as_str()), (2, "false"));
    assert_eq!(index.matching(&TriageFilter::waiting(), 10).unwrap(), 1);
    for (holds, claim) in [(Some(true), "holds"), (None, "not-told")] {
        one.claim.as_mut().unwrap().holds = holds;
        index.record(&one, at(1)).unwrap();
        assert_eq!((row(&index).severity, row(&index).claim.as_str()), (0, claim));
    }
    assert_eq!(index.matching(&TriageFilter::waiting(), 10).unwrap(), 0);
    one.relation = Relation::Incomparable;
    index.record(&one, at(2)).unwrap();
    assert_eq!((row(&index).severity, row(&index).claim.as_str()), (2, "not-told"));
    let mut index = Index::in_memory().unwrap();
    one.claim = None;
    index.record(&one, at(0)).unwrap();
    assert_eq!((row(&index).severity, row(&index).claim.as_str()), (0, "none"));
}

#[test]
fn rows_of_lists_serialise() {
    let index = filled(3);
    let rows =
        index.examinations(&ExaminationFilter::default(), ListOrder::Recorded, PageBounds::default()).unwrap().rows;
    let row = serde_json::to_value(&rows[0]).unwrap();
    assert_eq!(row["id"], json!(examination(0).id().to_string()));
    assert_eq!(row["last_seen"], json!(at(0).to_string()));
}

/// Every query of the documentation runs.
#[test]
fn the_documented_queries_run() {
    let index = filled(20);
    let queries: Vec<&str> = include_str!("../../docs/index.md")
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(queries.len() >= 8);
    for query in queries {
        let mut statement = index.connection().prepare(query).unwrap_or_else(|error| panic!("{query}: {error}"));
        let mut rows = statement.query([]).unwrap();
        while rows.next().unwrap().is_some() {}
    }
}

/// Every field of the JSON is in its documentation.
#[test]
fn every_field_is_documented() {
    fn keys(value: &serde_json::Value, into: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(entries) => entries.iter().for_each(|(key, value)| {
                into.insert(key.clone());
                if !matches!(key.as_str(), "evidence" | "model") {
                    keys(value, into);
                }
            }),
            serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, into)),
            _ => {}
        }
    }
    let mut all = BTreeSet::new();
    (0..60).for_each(|seed| keys(&serde_json::to_value(examination(seed)).unwrap(), &mut all));
    keys(&serde_json::to_value(with_variants(0)).unwrap(), &mut all);
    assert!(all.len() > 60);
    let documentation = include_str!("../../docs/examination.md");
    let words: BTreeSet<&str> = documentation.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let missing: Vec<_> = all.iter().filter(|key| !words.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
