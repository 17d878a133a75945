//! Compares what is read here with what other tools read: the files come from `tests/oracles/checkpoints.py`.

use std::path::Path;

use super::overlay;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::folder::open_path;

/// Every tensor as numbers.
fn numbers(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let entry = checkpoint.tensors.get(name).unwrap_or_else(|| panic!("{} has no {name}", checkpoint.label));
    let mut out = vec![0.0; entry.elements() as usize];
    checkpoint.decode(entry, 0, &mut out).unwrap_or_else(|e| panic!("{}", e.one_line()));
    // A piece from the middle must be the same piece.
    let (first, last) = (out.len() / 3, out.len() - out.len() / 4);
    let mut piece = vec![0.0; last - first];
    checkpoint.decode(entry, first as u64, &mut piece).unwrap_or_else(|e| panic!("{}", e.one_line()));
    assert!(piece.iter().zip(&out[first..last]).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: a piece differs");
    out
}

/// Each folder of `ORTHOSCOPE_ORACLES` holds a checkpoint (an adapter with its `base`), and in `expected` every tensor
/// of it as `F32`. The metadata of that file may allow a `relative` or `absolute` difference, and say with `exactly`
/// that there is no other tensor.
#[test]
#[ignore = "needs the folders that tests/oracles/checkpoints.py writes"]
fn other_tools_read_the_same_numbers() {
    let folder = std::env::var("ORTHOSCOPE_ORACLES").expect("ORTHOSCOPE_ORACLES names the folder");
    let mut cases: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    let failures: Vec<String> = cases.iter().flat_map(|case| check(case)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(case: &Path) -> Vec<String> {
    let base = case.join("base");
    let opened = open_path(case).and_then(|opened| match base.is_dir() {
        true => overlay(&open_path(&base)?, &opened),
        false => Ok(opened),
    });
    let checkpoint = match opened {
        Ok(checkpoint) => checkpoint,
        Err(e) => return vec![format!("{}: {}", case.display(), e.one_line())],
    };
    let expected = open_path(&case.join("expected")).unwrap_or_else(|e| panic!("{}", e.one_line()));
    let metadata = &expected.files[0].metadata;
    let allowed = |key: &str| metadata.get(key).map_or(0.0f32, |text| text.parse().unwrap());
    let (relative, absolute) = (allowed("relative"), allowed("absolute"));
    let mut failures = Vec::new();
    for (name, entry) in &expected.tensors {
        let Some(found) = checkpoint.tensors.get(name) else {
            failures.push(format!("{}: no {name}", case.display()));
            continue;
        };
        if found.shape != entry.shape {
            failures.push(format!("{}: {name} is {:?}, not {:?}", case.display(), found.shape, entry.shape));
            continue;
        }
        let (ours, theirs) = (numbers(&checkpoint, name), numbers(&expected, name));
        let close =
            |a: f32, b: f32| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= absolute + relative * b.abs();
        let wrong = ours.iter().zip(&theirs).filter(|(a, b)| !close(**a, **b)).count();
        if let Some((at, (a, b))) = ours.iter().zip(&theirs).enumerate().find(|(_, (a, b))| !close(**a, **b)) {
            let of = ours.len();
            failures.push(format!("{}: {wrong} of {of} of {name} differ: [{at}] {a} not {b}", case.display()));
        }
    }
    let others = checkpoint.tensors.keys().filter(|name| !expected.tensors.contains_key(*name));
    if metadata.contains_key("exactly") {
        failures.extend(others.map(|name| format!("{}: {name} is one too many", case.display())));
    }
    failures
}
