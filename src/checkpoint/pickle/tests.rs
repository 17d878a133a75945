//! Hand-made pickles and archives, honest and hostile.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::Storage;
use crate::limits::{MAX_NAMES_BYTES, MAX_PICKLE_IMPORTS};
use crate::source::{ByteSource, Bytes};

/// A zip archive of stored entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in entries {
        let header = bytes.len() as u32;
        let sizes = [data.len() as u32, data.len() as u32].map(u32::to_le_bytes).concat();
        bytes.extend(b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0");
        bytes.extend(crc32fast::hash(data).to_le_bytes());
        bytes.extend(&sizes);
        bytes.extend([name.len() as u8, 0, 0, 0]);
        bytes.extend(name.as_bytes());
        bytes.extend(*data);
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0");
        directory.extend(crc32fast::hash(data).to_le_bytes());
        directory.extend(&sizes);
        directory.extend([name.len() as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, count) = (bytes.len() as u32, entries.len() as u8);
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([count, 0, count, 0]);
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A small number as an opcode.
fn number(number: u32) -> Vec<u8> {
    [b"J".as_slice(), &number.to_le_bytes()].concat()
}

fn tuple(items: &[u32]) -> Vec<u8> {
    [b"(".to_vec(), items.iter().flat_map(|item| number(*item)).collect(), b"t".to_vec()].concat()
}

/// The call that rebuilds a tensor from storage `0` of eight floats.
fn tensor(offset: u32, shape: &[u32], strides: &[u32]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        number(8),
        b"tQ".to_vec(),
        number(offset),
        tuple(shape),
        tuple(strides),
        b"\x89}tR".to_vec(),
    ]
    .concat()
}

/// A dictionary of one value under the name `w`.
fn dictionary(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}".to_vec(), text("w"), value.to_vec(), b"s.".to_vec()].concat()
}

fn floats() -> Vec<u8> {
    (0..8).flat_map(|value| (value as f32).to_le_bytes()).collect()
}

fn zipped(pickle: &[u8]) -> Vec<u8> {
    archive(&[("m/data.pkl", pickle), ("m/data/0", &floats()), ("m/version", b"3\n")])
}

fn open_bytes(name: &str, bytes: Vec<u8>) -> Result<Checkpoint> {
    let source: Arc<dyn ByteSource> = Arc::new(Bytes::new(name, bytes));
    let files = BTreeMap::from([(name.to_owned(), source)]);
    crate::checkpoint::open(&FileSet { label: "test".to_owned(), files, ..FileSet::default() })
}

fn open_bin(bytes: Vec<u8>) -> Result<Checkpoint> {
    open_bytes("pytorch_model.bin", bytes)
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let entry = &checkpoint.tensors[name];
    let mut out = vec![0.0; entry.elements() as usize];
    checkpoint.decode(entry, 0, &mut out).unwrap();
    out
}

fn details(checkpoint: &Checkpoint, kind: &str) -> Vec<String> {
    let those = checkpoint.anomalies.iter().filter(|anomaly| anomaly.kind == kind);
    those.map(|anomaly| anomaly.detail.clone()).collect()
}

fn unreadable(checkpoint: &Checkpoint, name: &str) -> String {
    match &checkpoint.tensors[name].storage {
        Storage::Unreadable(reason) => reason.clone(),
        _ => panic!("{name} is readable"),
    }
}

#[test]
fn tensors_are_found_where_they_lie() {
    let checkpoint = open_bin(zipped(&dictionary(&tensor(2, &[2, 3], &[3, 1])))).unwrap();
    assert_eq!(checkpoint.anomalies, []);
    assert_eq!(checkpoint.format, "pytorch");
    assert_eq!(values(&checkpoint, "w"), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let raw = checkpoint.raw(&checkpoint.tensors["w"]).unwrap().unwrap().into_owned();
    assert_eq!(raw, floats()[8..], "mapped where it is stored");
}

#[test]
fn strides_are_followed() {
    let transposed = open_bin(zipped(&dictionary(&tensor(0, &[4, 2], &[1, 4])))).unwrap();
    assert_eq!(values(&transposed, "w"), [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    let mut middle = [0.0; 3];
    transposed.decode(&transposed.tensors["w"], 3, &mut middle).unwrap();
    assert_eq!(middle, [5.0, 2.0, 6.0]);
    let repeated = open_bin(zipped(&dictionary(&tensor(1, &[2, 2], &[0, 1])))).unwrap();
    assert_eq!(values(&repeated, "w"), [1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn tensors_outside_their_storage_are_listed_and_not_read() {
    for (offset, shape, strides, reason) in [
        (4, vec![2, 3], vec![3, 1], "pass the end of its storage"),
        (u32::MAX / 2, vec![1], vec![1], "pass the end of its storage"),
        (0, vec![2], vec![u32::MAX / 2], "pass the end of its storage"),
        (0, vec![1 << 30; 3], vec![0, 0, 0], "cannot be"),
        (0, vec![1 << 30], vec![0], "repeats 8 stored numbers"),
        (0, vec![1; 9], vec![1; 9], "9 dimensions"),
        (0, vec![2], vec![1, 1], "cannot be"),
    ] {
        let checkpoint = open_bin(zipped(&dictionary(&tensor(offset, &shape, &strides)))).unwrap();
        let why = unreadable(&checkpoint, "w");
        assert!(why.contains(reason), "{why}");
        assert_eq!(checkpoint.anomalies.len(), 1);
    }
}

#[test]
fn code_is_told_with_its_place_and_nothing_runs() {
    let plain = b"cos\nsystem\n(S'true'\ntR.".to_vec();
    let computed = [b"\x80\x04".to_vec(), text("builtins"), text("exec"), b"\x93)R.".to_vec()].concat();
    let instance = b"(S'true'\nisubprocess\nPopen\n.".to_vec();
    let hidden = b"\x80\x02N\x93.".to_vec();
    let extension = b"\x80\x02\x82\x07)R.".to_vec();
    let broken = b"cos\nsystem\n(S'true'\ntR\xff".to_vec();
    for (pickle, named) in [
        (plain.clone(), "\"os.system\" (opcode at byte 0 of"),
        (computed, "\"builtins.exec\" (opcode at byte"),
        (instance, "\"subprocess.Popen\" (opcode at byte 9 of"),
        (extension, "\"(extension).7\" (opcode at byte 2 of"),
        (broken, "\"os.system\" (opcode at byte 0 of"),
    ] {
        let checkpoint = open_bin(zipped(&pickle)).unwrap();
        assert!(checkpoint.tensors.is_empty());
        let told = details(&checkpoint, "code-on-load");
        assert!(told.len() == 1 && told[0].contains(named), "{told:?}");
    }
    assert!(open_bin(zipped(&hidden)).is_err(), "an import without a module is broken, not clean");
    for name in ["pytorch_model.bin", "model.safetensors"] {
        let bare = open_bytes(name, plain.clone()).unwrap();
        assert!(details(&bare, "code-on-load")[0].contains("os.system"), "{name}");
    }
    let disguised = open_bytes("model.safetensors", zipped(&plain)).unwrap();
    assert_eq!(details(&disguised, "pickle-in-safetensors").len(), 1);
    assert_eq!(details(&disguised, "code-on-load").len(), 1);
    let beside = [b"}".to_vec(), text("w"), tensor(0, &[8], &[1]), b"s".to_vec(), text("x"), plain].concat();
    let beside = [&beside[..beside.len() - 1], b"s."].concat();
    let checkpoint = open_bin(zipped(&beside)).unwrap();
    assert_eq!(values(&checkpoint, "w").len(), 8, "the tensors are read all the same");
    assert_eq!(details(&checkpoint, "code-on-load").len(), 1);
}

#[test]
fn wrappers_and_inner_dictionaries_are_followed() {
    let parameter =
        [b"ctorch._utils\n_rebuild_parameter\n(".to_vec(), tensor(0, &[2], &[1]), b"\x88}tR".to_vec()].concat();
    let inner = [b"}".to_vec(), text("a"), parameter, b"s".to_vec()].concat();
    let outer = [b"}".to_vec(), text("epoch"), number(3), b"s".to_vec(), text("state_dict"), inner, b"s.".to_vec()];
    let checkpoint = open_bin(zipped(&outer.concat())).unwrap();
    assert_eq!(values(&checkpoint, "a"), [0.0, 1.0]);
    assert_eq!(checkpoint.anomalies, []);
}

#[test]
fn the_old_layout_is_read() {
    let magic = [b"\x80\x02".as_slice(), MAGIC, b"."].concat();
    let system = [b"}".to_vec(), text("little_endian"), b"\x88s.".to_vec()].concat();
    let object = dictionary(&tensor(2, &[2], &[1]));
    let keys = [b"](".to_vec(), text("0"), b"e.".to_vec()].concat();
    let count = 8u64.to_le_bytes().to_vec();
    let whole = [magic, b"\x80\x02M\xe9\x03.".to_vec(), system, object, keys, count, floats()].concat();
    let checkpoint = open_bin(whole.clone()).unwrap();
    assert_eq!(checkpoint.anomalies, []);
    assert_eq!(values(&checkpoint, "w"), [2.0, 3.0]);
    let cut = open_bin(whole[..whole.len() - 1].to_vec()).unwrap();
    assert_eq!(details(&cut, "outside-file").len(), 1);
    assert!(unreadable(&cut, "w").contains("storage 0 is not in the file"));
    let longer = open_bin([whole, vec![0; 3]].concat()).unwrap();
    assert_eq!(details(&longer, "trailing-bytes"), ["3 bytes after the last storage"]);
}

#[test]
fn odd_archives_are_told() {
    let pickle = dictionary(&tensor(0, &[8], &[1]));
    let escape =
        archive(&[("m/data.pkl", &pickle), ("m/data/0", &floats()), ("../../x", b""), ("m/data.pkl", &pickle)]);
    let checkpoint = open_bin(escape).unwrap();
    assert_eq!(details(&checkpoint, "path-escape").len(), 1);
    assert_eq!(details(&checkpoint, "duplicate-entry").len(), 1);
    assert_eq!(details(&checkpoint, "two-pickles").len(), 1);

    let mut trailing = zipped(&pickle);
    trailing.extend(b"more");
    assert_eq!(details(&open_bin(trailing).unwrap(), "trailing-bytes").len(), 1);

    let script = archive(&[("m/data.pkl", &pickle), ("m/data/0", &floats()), ("m/code/x.py", b"")]);
    assert_eq!(details(&open_bin(script).unwrap(), "torchscript").len(), 1);

    let big = archive(&[("m/data.pkl", &pickle), ("m/data/0", &floats()), ("m/byteorder", b"big")]);
    assert!(unreadable(&open_bin(big).unwrap(), "w").contains("big-endian"));

    let missing = archive(&[("m/data.pkl", &pickle)]);
    assert!(unreadable(&open_bin(missing).unwrap(), "w").contains("storage 0 is not in the file"));
}

/// The archive with one byte of the directory's entry `index` changed.
fn changed_directory(mut bytes: Vec<u8>, index: usize, at: usize, value: u8) -> Vec<u8> {
    let entries: Vec<usize> = (0..bytes.len() - 4).filter(|at| bytes[*at..].starts_with(b"PK\x01\x02")).collect();
    bytes[entries[index] + at] = value;
    bytes
}

#[test]
fn compressed_encrypted_and_overlapping_entries_are_refused() {
    let whole = zipped(&dictionary(&tensor(0, &[8], &[1])));
    let compressed = open_bin(changed_directory(whole.clone(), 1, 10, 8)).unwrap();
    assert_eq!(details(&compressed, "compressed-entry").len(), 1);
    assert!(unreadable(&compressed, "w").contains("is compressed"));
    let encrypted = open_bin(changed_directory(whole.clone(), 1, 8, 1)).unwrap();
    assert!(unreadable(&encrypted, "w").contains("is encrypted"));
    let longer = open_bin(changed_directory(whole.clone(), 1, 20, 60)).unwrap();
    assert_eq!(details(&longer, "overlap").len(), 1);
    assert_eq!(details(&longer, "wrong-size").len(), 1);
    let error = open_bin(changed_directory(whole, 1, 23, 60)).unwrap_err();
    assert!(error.one_line().contains("lies outside the file"), "{}", error.one_line());
}

#[test]
fn bombs_end_at_a_cap() {
    use std::io::Write as _;
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..65 {
        packed.write_all(&vec![b'N'; 1 << 20]).unwrap();
    }
    let bomb = archive(&[("m/data.pkl", &packed.finish().unwrap())]);
    // The local header's method is left as it was: another oddity that does not keep the bomb from being met.
    let error = open_bin(changed_directory(bomb, 0, 10, 8)).unwrap_err();
    assert!(error.one_line().contains("holds no data.pkl"), "{}", error.one_line());

    // Ten lists, each of which holds the one before twenty times.
    let mut pickle = b"]q\x00".to_vec();
    for level in 1..10u8 {
        pickle.extend([b']', b'q', level, b'(']);
        pickle.extend([b'h', level - 1].repeat(20));
        pickle.extend(b"e");
    }
    pickle.extend(b".");
    let error = open_bin(zipped(&pickle)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);

    let deep = [b"]".repeat(100_000), b"a".repeat(99_999), b".".to_vec()].concat();
    let deep = open_bin(zipped(&deep)).unwrap();
    let (name, _) = deep.tensors.first_key_value().unwrap();
    assert!(unreadable(&deep, name).contains("too deep"), "what lies too deep is not read, and says so");
    let circle = [b"]q\x00h\x00a.".to_vec()].concat();
    assert!(open_bin(zipped(&circle)).unwrap_err().one_line().contains("no tensor"));
}

#[test]
fn what_is_neither_says_so() {
    for (bytes, reason) in [
        (b"hello".to_vec(), "neither a zip archive nor a pickle"),
        (b"".to_vec(), "neither a zip archive nor a pickle"),
        (b"GGUF\x03\0\0\0".to_vec(), "too few for a GGUF file"),
        (b"PK\x03\x04".to_vec(), "there is none"),
        (archive(&[("m/other", b"")]), "holds no data.pkl"),
        (b"\x80\x09.".to_vec(), "protocol 9"),
        (b"\x80\x02\x01.".to_vec(), "0x01 is no opcode"),
        (b"\x80\x02.".to_vec(), "empty stack"),
        (b"\x80\x02(a.".to_vec(), "below a mark"),
        (b"\x80\x02h\x05.".to_vec(), "recalls 5"),
        (b"\x80\x02X\xff\xff\xff\xffab.".to_vec(), "ends inside an opcode"),
    ] {
        let error = open_bin(bytes).unwrap_err().one_line();
        assert!(error.contains(reason) && error.contains("pytorch_model.bin"), "{reason:?} is not in {error:?}");
    }
}

fn use_all(bytes: Vec<u8>) {
    let Ok(checkpoint) = open_bin(bytes) else { return };
    for entry in checkpoint.tensors.values() {
        let mut out = vec![0.0; entry.elements().min(1000) as usize];
        let _ = checkpoint.decode(entry, 0, &mut out);
        let _ = checkpoint.raw(entry);
    }
}

proptest! {
    #[test]
    fn any_pickle_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        Pickle::read(&bytes);
        use_all(zipped(&bytes));
        use_all([b"\x80\x02".to_vec(), bytes].concat());
    }

    #[test]
    fn any_mix_of_opcodes_is_survived(codes in prop::collection::vec(prop::sample::select(
        b"(.012NJKMX}])tldaesuqhRQbc\x85\x86\x87\x88\x93\x94\x81\x92io".to_vec()), 0..120)) {
        Pickle::read(&codes);
    }

    #[test]
    fn a_changed_archive_is_survived(changes in prop::collection::vec((0usize..600, any::<u8>()), 1..6), cut in 0usize..60) {
        let mut bytes = zipped(&dictionary(&tensor(0, &[4, 2], &[1, 4])));
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut);
        use_all(bytes);
    }
}

/// The kinds that [`imports_of`] returns for a file of these bytes, and what it says of imports.
fn imports(bytes: Vec<u8>) -> (Vec<String>, Vec<String>) {
    let found = imports_of(&Bytes::new("x", bytes), "sub/x.bin");
    assert!(found.iter().all(|anomaly| anomaly.file == "sub/x.bin"), "{found:?}");
    let code = found.iter().filter(|anomaly| anomaly.kind == "code-on-load").map(|anomaly| anomaly.detail.clone());
    let code = code.collect();
    (found.into_iter().map(|anomaly| anomaly.kind).collect(), code)
}

/// A pickle that calls `posix.system`.
const EVIL: &[u8] = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.";

#[test]
fn imports_are_found_in_every_layout_without_a_model() {
    let legacy = |object: &[u8]| {
        [b"\x80\x02".as_slice(), MAGIC, b".", b"\x80\x02M\xe9\x03.", b"\x80\x02}.", object, b"\x80\x02]."].concat()
    };
    let protocol_0 = [b"L119547037146038801333356L\n.", b"I1001\n.(d.".as_slice(), EVIL].concat();
    for (what, bytes) in [
        ("a pickle by itself", EVIL.to_vec()),
        ("an archive", zipped(EVIL)),
        ("an archive without tensors, of another name", archive(&[("x/y/z.pickle", EVIL)])),
        ("the plain layout", legacy(EVIL)),
        ("the plain layout with its number spelled as text", protocol_0),
        ("a second pickle", [b"N.".as_slice(), EVIL].concat()),
        ("a pickle that begins as none does", [b"K\x010".as_slice(), EVIL].concat()),
        ("bytes that are no UTF-8 before it", [b"V\xff\n0".as_slice(), EVIL].concat()),
        ("a memo key with an underscore before it", [b"Np1_0\ng10\n00".as_slice(), EVIL].concat()),
    ] {
        let (kinds, code) = imports(bytes);
        assert_eq!(kinds, ["code-on-load"], "{what}");
        assert!(code[0].contains("\"posix.system\""), "{what}: {code:?}");
    }
    let clean = dictionary(&tensor(0, &[8], &[1]));
    for bytes in [zipped(&clean), clean.clone(), legacy(&clean), archive(&[("weights.npy", b"x")])] {
        assert_eq!(imports(bytes), (vec![], vec![]));
    }
}

#[test]
fn what_cannot_be_walked_for_imports_is_told() {
    let broken = EVIL.split_last().unwrap().1.to_vec();
    assert_eq!(imports(broken.clone()).0, ["code-on-load", "unreadable-pickle"]);
    assert_eq!(imports(archive(&[("m/data.pkl", &broken)])).0, ["code-on-load", "unreadable-pickle"]);
    assert_eq!(imports(b"\x80\x02\xff".to_vec()).0, ["unreadable-pickle"]);
    assert_eq!(imports(b"PK\x03\x04 and no directory".to_vec()).0, ["unreadable-pickle"]);
    for other in [b"GGUF\x03\0\0\0".as_slice(), b"", b"\0\0\0\0", b"plain text\n"] {
        assert_eq!(imports(other.to_vec()).0, ["not-a-pickle"], "{other:?}");
    }
    let names: Vec<String> = (0..20).map(|number| format!("{number}.pkl")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"N.".as_slice())).collect();
    assert_eq!(imports(archive(&many)).0, ["too-many-pickles"]);
    let mut tar = [0u8; 512];
    tar[..6].copy_from_slice(b"pickle");
    let sum = tar.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    assert_eq!(imports(tar.to_vec()).0, ["unreadable-pickle"], "PyTorch's first layout is a tar archive");
}

#[test]
fn imports_are_told_once_each_and_are_capped() {
    let again = [b"\x80\x02".to_vec(), b"cposix\nsystem\n0".repeat(1000), b"N.".to_vec()].concat();
    let (kinds, code) = imports(again);
    assert_eq!(kinds, ["code-on-load"]);
    assert!(code[0].contains("at byte 2 of the file, and 999 more"), "{code:?}");
    let many: Vec<u8> =
        (0..2 * MAX_PICKLE_IMPORTS).flat_map(|number| format!("cm\nn{number}\n0").into_bytes()).collect();
    let pickle = Pickle::read(&many);
    assert_eq!(pickle.imports.len(), MAX_PICKLE_IMPORTS);
    assert!(pickle.broken.is_some_and(|why| why.contains("more than")));
    // One long text as the name of many imports is not kept many times over.
    let long =
        [text(&"m".repeat(100_000)), b"q\x00".to_vec(), b"h\x00h\x00\x930".to_vec(), b"h\x00Vx\n\x930".repeat(500)];
    let pickle = Pickle::read(&long.concat());
    assert!(pickle.imports.iter().all(|import| import.module.len() < 200 && import.name.len() < 200));
}

#[test]
fn one_long_text_costs_no_more_than_itself_however_often_it_is_named() {
    let long =
        [b"}".to_vec(), text(&"k".repeat(MAX_NAMES_BYTES / 16)), b"q\x000".to_vec(), b"]q\x010".to_vec()].concat();
    let again = [long.clone(), b"(".to_vec(), b"h\x00h\x01".repeat(20), b"u.".to_vec()].concat();
    let error = open_bin(zipped(&again)).unwrap_err();
    assert!(error.kind == ErrorKind::TooLarge && error.one_line().contains("the names in it"), "{}", error.one_line());
    // One key of four kilobytes above many tensors.
    let key = text(&"k".repeat(4000));
    let many = MAX_NAMES_BYTES / 4000 + 1;
    let list = [
        b"}".to_vec(),
        key,
        b"(".to_vec(),
        tensor(0, &[8], &[1]),
        b"q\x01".to_vec(),
        b"h\x01".repeat(many),
        b"ls.".to_vec(),
    ];
    let opened = open_bin(zipped(&list.concat())).unwrap();
    assert!(opened.tensors.len() < many && details(&opened, "unreadable-file")[0].contains("the names"));
    // A storage's key is compared for every tensor.
    let key = tensor(0, &[8], &[1]);
    let at = key.windows(6).position(|bytes| bytes == text("0")).unwrap();
    let key = [&key[..at], &text(&"0".repeat(1000)), &key[at + 6..]].concat();
    assert!(unreadable(&open_bin(zipped(&dictionary(&key))).unwrap(), "w").contains("storage is missing"));
}
