//! `orthoscope verify` as a user calls it: folders, hub caches, repositories, lists of checksums, signatures, and what is
//! hostile in any of them.

use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orthoscope::checkpoint::safetensors::{NewTensor, to_bytes};
use orthoscope::demo::standin::{FileContent, Repository, Standin};
use orthoscope::demo::tiny::gguf::{self, Quantization};
use orthoscope::demo::tiny::torch::{self, NewView};
use orthoscope::ids::Digest;
use orthoscope::tensor::F32;
use serde_json::{Value, json};

use crate::program::program;
use crate::support::{TINY, open_settings};

/// A pickle that would call something on loading.
const CODE: &[u8] = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.";

const NOWHERE: &str = "http://127.0.0.1:9";

fn text(folder: &Path, hub: &str, arguments: &[&str], status: i32) -> String {
    let output = program(folder, hub).arg("verify").args(arguments).assert().code(status).get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn found(folder: &Path, arguments: &[&str], status: i32) -> Value {
    on(folder, NOWHERE, arguments, status)
}

fn on(folder: &Path, hub: &str, arguments: &[&str], status: i32) -> Value {
    let arguments = [arguments, &["--format", "json"]].concat();
    let value: Value = serde_json::from_str(&text(folder, hub, &arguments, status)).unwrap();
    assert_eq!(value["schema"], "orthoscope/verification/1");
    value
}

fn file<'v>(found: &'v Value, name: &str) -> &'v Value {
    let files = found["files"].as_array().unwrap();
    files.iter().find(|file| file["name"] == name).unwrap_or_else(|| panic!("{name} in {found:#}"))
}

/// The outcome of a check of a file; the gravest where there are several.
fn outcome<'v>(found: &'v Value, name: &str, check: &str) -> &'v str {
    const GRAVITY: &[&str] = &["not-applicable", "ok", "not-checked", "absent", "failed", "differs"];
    let checks = file(found, name)["checks"].as_array().unwrap();
    let of = checks.iter().filter(|one| one["check"] == check).map(|one| one["outcome"].as_str().unwrap());
    of.max_by_key(|one| GRAVITY.iter().position(|known| known == one).unwrap()).unwrap_or("none")
}

fn detail(found: &Value, name: &str) -> String {
    file(found, name)["checks"].to_string()
}

fn weights(name: &str) -> Vec<u8> {
    let tensor = NewTensor { name, dtype: &F32, shape: &[4], bytes: &[7; 16] };
    to_bytes(&[tensor], &Default::default()).unwrap()
}

fn model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("model.safetensors"), weights("a")).unwrap();
    std::fs::write(folder.join("config.json"), "{\"model_type\":\"llama\"}").unwrap();
}

fn sums(folder: &Path, names: &[&str]) -> String {
    let line = |name: &&str| format!("{}  {name}\n", Digest::of(&std::fs::read(folder.join(name)).unwrap()).hex());
    names.iter().map(line).collect()
}

#[test]
fn a_folder_of_which_nobody_states_anything_is_not_called_equal() {
    let top = tempfile::tempdir().unwrap();
    model(&top.path().join("m"));
    let found = found(top.path(), &["m"], 0);
    assert_eq!((&found["result"], &found["counts"]["hashed"]), (&"not-hashed".into(), &0.into()));
    assert_eq!(outcome(&found, "model.safetensors", "header"), "ok");
    assert_eq!(outcome(&found, "model.safetensors", "magic"), "ok");
    assert_eq!(outcome(&found, "model.safetensors", "digest"), "not-applicable");
    let said = text(top.path(), NOWHERE, &["m"], 0);
    assert!(said.contains("compared with nothing"), "{said}");
    let one = text(top.path(), NOWHERE, &["m/model.safetensors"], 0);
    assert!(one.contains("safetensors"), "{one}");
    std::fs::create_dir(top.path().join("empty")).unwrap();
    text(top.path(), NOWHERE, &["empty"], 2);
}

#[test]
fn lists_of_checksums_are_found_or_given_and_held_to() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("m");
    model(&folder);
    let list = sums(&folder, &["model.safetensors", "config.json"]);
    std::fs::write(folder.join("SHA256SUMS"), &list).unwrap();
    let good = found(top.path(), &["m"], 0);
    assert_eq!((&good["result"], &good["counts"]["hashed"]), (&"agrees".into(), &2.into()));
    assert_eq!(file(&good, "config.json")["sha256"], Digest::of(b"{\"model_type\":\"llama\"}").to_string());
    // Given by name, the same list is not used twice.
    let given = found(top.path(), &["m", "--manifest", "m/SHA256SUMS"], 0);
    assert_eq!(given["references"].as_array().unwrap().len(), 1);
    let single = found(top.path(), &["m/config.json", "--manifest", "m/SHA256SUMS"], 0);
    assert_eq!(single["result"], "agrees");

    std::fs::write(folder.join("config.json"), "{\"model_type\":\"llamb\"}").unwrap();
    let changed = found(top.path(), &["m"], 1);
    assert_eq!(outcome(&changed, "config.json", "digest"), "differs");
    assert_eq!(outcome(&changed, "model.safetensors", "digest"), "ok");
    std::fs::remove_file(folder.join("config.json")).unwrap();
    let absent = found(top.path(), &["m"], 2);
    assert_eq!((&absent["result"], outcome(&absent, "config.json", "listed")), (&"incomplete".into(), "absent"));

    let hostile = format!("{list}{0}  ../../etc/passwd\n{0}  /etc/passwd\nnonsense\n", "0".repeat(64));
    std::fs::write(top.path().join("hostile"), hostile).unwrap();
    model(&folder);
    std::fs::remove_file(folder.join("SHA256SUMS")).unwrap();
    let refused = found(top.path(), &["m", "--manifest", "hostile"], 2);
    let failed = refused["checks"].as_array().unwrap().iter().filter(|one| one["outcome"] == "failed").count();
    assert_eq!(failed, 3, "{refused:#}");
    assert!(refused["files"].as_array().unwrap().iter().all(|file| !file["name"].as_str().unwrap().contains("passwd")));
}

#[test]
fn files_that_are_something_else_than_their_names_say_are_told_with_advice() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("m");
    std::fs::create_dir(&folder).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 4976698672\n", "ab".repeat(32));
    put("model.safetensors", pointer.as_bytes());
    put("tokenizer.json", pointer.as_bytes());
    put("page.gguf", b"<!DOCTYPE html><title>401</title>");
    put("error.bin", b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>");
    put("program.pt", b"\x7fELF\x02\x01\x01");
    put("renamed.bin", &weights("a"));
    put("code.safetensors", CODE);
    put("training_args.bin", CODE);
    let found = found(top.path(), &["m"], 1);
    for name in [
        "model.safetensors",
        "tokenizer.json",
        "page.gguf",
        "error.bin",
        "program.pt",
        "renamed.bin",
        "code.safetensors",
    ] {
        assert_eq!(outcome(&found, name, "magic"), "differs", "{name}");
    }
    assert!(detail(&found, "model.safetensors").contains("4976698672 bytes of content were never downloaded"));
    assert!(detail(&found, "tokenizer.json").contains("git lfs pull"));
    let code = &file(&found, "code.safetensors")["oddities"][0];
    assert_eq!((&code["kind"], &code["severity"]), (&"code-on-load".into(), &"high".into()));
    assert!(
        code["detail"].as_str().unwrap().contains("os.system") && code["detail"].as_str().unwrap().contains("byte")
    );
    // Its being a trainer's leftover is no excuse for that import.
    assert_eq!(file(&found, "training_args.bin")["oddities"][0]["severity"], "high");
    let said = text(top.path(), NOWHERE, &["m"], 1);
    assert!(said.contains("runs code") && said.contains("2 files would run code on loading"), "{said}");
}

#[test]
fn headers_that_cannot_be_read_or_contradict_themselves() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("m");
    std::fs::create_dir(&folder).unwrap();
    let broken = [&20u64.to_le_bytes()[..], b"{\"a\":{\"dtype\":\"F32\"  "].concat();
    std::fs::write(folder.join("model.safetensors"), &broken).unwrap();
    let unreadable = found(top.path(), &["m"], 2);
    assert_eq!(outcome(&unreadable, "model.safetensors", "header"), "failed");
    assert_eq!(unreadable["result"], "incomplete");
    let mut short = weights("a");
    short.truncate(short.len() - 4);
    std::fs::write(folder.join("model.safetensors"), &short).unwrap();
    let cut = found(top.path(), &["m"], 1);
    assert_eq!(outcome(&cut, "model.safetensors", "header"), "differs");
    assert_eq!(file(&cut, "model.safetensors")["oddities"][0]["kind"], "outside-file");
    // A pickle that breaks off after its call: what ran before the break would have run.
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("model.bin"), [&CODE[..CODE.len() - 1], b"\xff\xff"].concat()).unwrap();
    let code = found(top.path(), &["m"], 1);
    assert_eq!(file(&code, "model.bin")["oddities"][0]["kind"], "code-on-load");
    assert!(!text(top.path(), NOWHERE, &["m"], 1).contains("oddities"));
    std::fs::write(folder.join("model.bin"), b"\x80\x02}q\x00X").unwrap();
    let cut = found(top.path(), &["m"], 2);
    assert_eq!(outcome(&cut, "model.bin", "header"), "failed");
    // GGUF with its magic and nothing else.
    std::fs::remove_file(folder.join("model.bin")).unwrap();
    std::fs::write(folder.join("model.gguf"), b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    let gguf = found(top.path(), &["m"], 2);
    assert_eq!(outcome(&gguf, "model.gguf", "header"), "failed");
}

#[test]
fn a_file_that_was_cut_short_fails_whatever_its_format() {
    let view = NewView { name: "a", dtype: &F32, shape: &[4], strides: &[1], offset: 0, storage: &[7; 16] };
    let files = [
        ("model.safetensors", weights("a"), 4),
        ("model.bin", torch::bytes(&[view]), 4),
        // More than the padding after the last tensor.
        ("model.gguf", gguf::bytes(&TINY.llama(1), "tiny", Quantization::F16), 64),
    ];
    for (name, whole, cut) in files {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("m")).unwrap();
        let path = top.path().join("m").join(name);
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(outcome(&found(top.path(), &["m"], 0), name, "header"), "ok", "{name}");
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let found = found(top.path(), &["m"], 1);
        assert_eq!(outcome(&found, name, "header"), "differs", "{name}");
        let oddities = file(&found, name)["oddities"].as_array().unwrap();
        let outside = oddities.iter().find(|oddity| oddity["kind"] == "outside-file");
        assert_eq!(outside.map(|oddity| &oddity["severity"]), Some(&"high".into()), "{name}: {oddities:?}");
    }
}

#[test]
fn shard_indexes_are_held_to_their_shards() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("m");
    std::fs::create_dir(&folder).unwrap();
    let shard = |number: u32| format!("model-0000{number}-of-00002.safetensors");
    let index = |total: u64| {
        json!({"metadata": {"total_size": total}, "weight_map": {"a": shard(1), "b": shard(2)}}).to_string()
    };
    for (number, name) in [(1, "a"), (2, "b")] {
        std::fs::write(folder.join(shard(number)), weights(name)).unwrap();
    }
    std::fs::write(folder.join("model.safetensors.index.json"), index(32)).unwrap();
    let good = found(top.path(), &["m"], 0);
    assert_eq!((&good["checks"][0]["check"], &good["checks"][0]["outcome"]), (&"index".into(), &"ok".into()));
    assert!(good["oddities"].as_array().unwrap().is_empty(), "{good:#}");
    std::fs::write(folder.join("model.safetensors.index.json"), index(33)).unwrap();
    let total = found(top.path(), &["m"], 0);
    assert_eq!(
        (&total["oddities"][0]["kind"], &total["oddities"][0]["severity"]),
        (&"total-size".into(), &"low".into())
    );
    std::fs::write(folder.join(shard(2)), weights("c")).unwrap();
    let kinds = |found: &Value| -> Vec<String> {
        found["oddities"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap().to_owned()).collect()
    };
    let other = kinds(&found(top.path(), &["m"], 1));
    assert!(other.contains(&"not-in-shard".to_owned()) && other.contains(&"not-in-index".to_owned()), "{other:?}");
    std::fs::remove_file(folder.join(shard(2))).unwrap();
    assert!(kinds(&found(top.path(), &["m"], 1)).contains(&"missing-shard".to_owned()));
}

#[test]
fn a_repository_is_read_by_ranges_and_hashed_only_when_asked() {
    let repository = Repository::new("org/name")
        .with("config.json", "{\"model_type\":\"llama\"}")
        .with("README.md", "# Model\n")
        .with("model.safetensors", weights("a"));
    let mut lying = repository.clone();
    "org/lying".clone_into(&mut lying.name);
    let other = FileContent::mislabelled(weights("b"), Digest::of(&weights("z")));
    lying.files.insert("model.safetensors".to_owned(), other);
    let standin = Standin::start(vec![repository, lying], open_settings()).unwrap();
    let top = tempfile::tempdir().unwrap();
    let first = on(top.path(), standin.hub(), &["hf:org/name"], 0);
    assert_eq!(first["result"], "not-hashed");
    assert_eq!(outcome(&first, "model.safetensors", "size"), "ok");
    assert_eq!(outcome(&first, "model.safetensors", "digest"), "not-checked");
    assert_eq!(outcome(&first, "model.safetensors", "header"), "ok");
    assert_eq!(outcome(&first, "config.json", "size"), "not-checked");
    assert!(first["revision"].as_str().unwrap().len() == 40);
    // Small files are not asked for: each request counts as somebody's download.
    let asked = standin.log();
    assert!(!asked.iter().any(|entry| entry.target.contains("resolve") && entry.target.contains("config.json")));
    let said = text(top.path(), standin.hub(), &["hf:org/name"], 0);
    assert!(said.contains("not hashed"), "{said}");

    let whole = on(top.path(), standin.hub(), &["hf:org/name", "--download"], 0);
    assert_eq!((&whole["result"], &whole["counts"]["hashed"]), (&"agrees".into(), &3.into()));
    // What is in the cache now is hashed without being asked for.
    let again = on(top.path(), standin.hub(), &["hf:org/name"], 0);
    assert_eq!(again["result"], "agrees");
    assert_eq!((&whole["counts"]["cached"], &again["counts"]["cached"]), (&0.into(), &3.into()));
    assert!(detail(&again, "model.safetensors").contains("the copy in the cache"));

    let lies = on(top.path(), standin.hub(), &["hf:org/lying", "--download"], 1);
    assert_eq!(outcome(&lies, "model.safetensors", "digest"), "differs", "{lies:#}");
    text(top.path(), standin.hub(), &["hf:org/absent"], 2);
    text(top.path(), standin.hub(), &["hf:org/name", "--against", "hf:org/name"], 64);
}

#[test]
fn a_download_is_held_to_its_hub() {
    let repository = Repository::new("org/name")
        .with("config.json", "{\"model_type\":\"llama\"}")
        .with("model.safetensors", weights("a"))
        .with("sub/notes.txt", "notes");
    let standin = Standin::start(vec![repository], open_settings()).unwrap();
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("m");
    model(&folder);
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    std::fs::create_dir_all(folder.join(".cache/huggingface")).unwrap();
    std::fs::write(folder.join(".cache/huggingface/notes"), "of a tool").unwrap();
    std::fs::write(folder.join("sub/notes.txt"), "notes").unwrap();
    let run = |status| on(top.path(), standin.hub(), &["m", "--against", "hf:org/name"], status);
    assert_eq!((&run(0)["result"], &run(0)["counts"]["hashed"]), (&"agrees".into(), &3.into()));
    // By its git name, as the hub lists no other of small files; the length is the same.
    std::fs::write(folder.join("sub/notes.txt"), "nodes").unwrap();
    let changed = run(1);
    assert_eq!(outcome(&changed, "sub/notes.txt", "digest"), "differs");
    assert_eq!(outcome(&changed, "sub/notes.txt", "size"), "ok");
    assert!(detail(&changed, "sub/notes.txt").contains("git-sha1:"));
    std::fs::remove_file(folder.join("sub/notes.txt")).unwrap();
    assert_eq!(outcome(&run(2), "sub/notes.txt", "listed"), "absent");
    std::fs::write(folder.join("modeling.py"), "print()").unwrap();
    let more = run(1);
    assert_eq!(outcome(&more, "modeling.py", "listed"), "differs");
    let one = on(top.path(), standin.hub(), &["m/model.safetensors", "--against", "hf:org/name"], 0);
    assert_eq!(one["result"], "agrees");
    text(top.path(), standin.hub(), &["m", "--against", "./m"], 64);
    text(top.path(), standin.hub(), &["m", "--download"], 64);
}

#[cfg(unix)]
#[test]
fn a_hubs_cache_is_held_to_the_names_of_its_blobs() {
    use std::os::unix::fs::symlink;
    let top = tempfile::tempdir().unwrap();
    let cache = top.path().join("hub/models--o--n");
    let commit = "0123456789012345678901234567890123456789";
    let snapshot = cache.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(cache.join("blobs")).unwrap();
    let held = weights("a");
    let blob = cache.join("blobs").join(Digest::of(&held).hex());
    std::fs::write(&blob, &held).unwrap();
    symlink(format!("../../blobs/{}", Digest::of(&held).hex()), snapshot.join("model.safetensors")).unwrap();
    // `printf '{}' | git hash-object --stdin`.
    let git = "9e26dfeeb6e641a33dae4961196235bdb965b21b";
    std::fs::write(cache.join("blobs").join(git), "{}").unwrap();
    symlink(format!("../../blobs/{git}"), snapshot.join("config.json")).unwrap();
    for path in ["hub/models--o--n", &format!("hub/models--o--n/snapshots/{commit}")] {
        let good = found(top.path(), &[path], 0);
        assert_eq!((&good["result"], &good["counts"]["hashed"]), (&"agrees".into(), &2.into()), "{path}");
        assert_eq!(good["revision"], commit);
    }
    std::fs::write(top.path().join("secret"), "secret").unwrap();
    symlink(top.path().join("secret"), snapshot.join("out.txt")).unwrap();
    let out = found(top.path(), &["hub/models--o--n"], 2);
    assert!(detail(&out, "out.txt").contains("leads out of the folder"));
    std::fs::write(&blob, weights("b")).unwrap();
    let changed = found(top.path(), &["hub/models--o--n"], 1);
    assert_eq!(outcome(&changed, "model.safetensors", "digest"), "differs");
    assert_eq!(outcome(&changed, "config.json", "digest"), "ok");
}

/// A model signature over these files, by a new key; its public key in PEM.
fn signed(folder: &Path, names: &[&str]) -> String {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let digests: Vec<Digest> =
        names.iter().map(|name| Digest::of(&std::fs::read(folder.join(name)).unwrap())).collect();
    let all: Vec<u8> = digests.iter().flat_map(|digest| digest.0).collect();
    let resources: Vec<Value> = (names.iter().zip(&digests))
        .map(|(name, digest)| json!({"name": name, "algorithm": "sha256", "digest": digest.hex()}))
        .collect();
    let payload = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": Digest::of(&all).hex()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"resources": resources, "serialization": {"method": "files", "hash_type": "sha256",
            "allow_symlinks": false, "ignore_paths": ["model.sig"]}},
    })
    .to_string();
    let kind = "application/vnd.in-toto+json";
    let message = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
    let made = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {}, "tlogEntries": []},
        "dsseEnvelope": {"payload": STANDARD.encode(&payload), "payloadType": kind,
            "signatures": [{"sig": STANDARD.encode(made.as_ref())}]},
    });
    std::fs::write(folder.join("model.sig"), bundle.to_string()).unwrap();
    // SubjectPublicKeyInfo of a P-256 key: a fixed beginning, then the point.
    let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    let info = STANDARD.encode([head, pair.public_key().as_ref().to_vec()].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{info}\n-----END PUBLIC KEY-----\n")
}

#[test]
fn a_model_signature_covers_every_file_and_is_believed_by_its_key_alone() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("m");
    model(&folder);
    let key = signed(&folder, &["config.json", "model.safetensors"]);
    std::fs::write(top.path().join("key.pem"), key).unwrap();
    std::fs::create_dir(top.path().join("other")).unwrap();
    std::fs::write(top.path().join("other/a"), "a").unwrap();
    std::fs::write(top.path().join("other.pem"), signed(&top.path().join("other"), &["a"])).unwrap();
    let keyed = ["m", "--key", "key.pem"];
    let good = found(top.path(), &keyed, 0);
    assert_eq!(good["references"][0]["signature"]["state"], "verified");
    assert_eq!((&good["result"], &good["counts"]["hashed"]), (&"agrees".into(), &2.into()));
    let unchecked = text(top.path(), NOWHERE, &["m"], 0);
    assert!(unchecked.contains("give --key") && unchecked.contains("ho signed was not checked"), "{unchecked}");
    let wrong = found(top.path(), &["m", "--key", "other.pem"], 1);
    assert_eq!(wrong["references"][0]["signature"]["state"], "differs");
    let named = found(top.path(), &["m", "--manifest", "m/model.sig", "--key", "key.pem"], 0);
    assert_eq!(named["references"].as_array().unwrap().len(), 1);

    std::fs::write(folder.join("planted.py"), "print()").unwrap();
    assert_eq!(outcome(&found(top.path(), &keyed, 1), "planted.py", "listed"), "differs");
    std::fs::rename(folder.join("planted.py"), folder.join(".gitattributes")).unwrap();
    assert_eq!(found(top.path(), &keyed, 0)["result"], "agrees");
    std::fs::remove_file(folder.join("config.json")).unwrap();
    assert_eq!(outcome(&found(top.path(), &keyed, 1), "config.json", "listed"), "differs");

    text(top.path(), NOWHERE, &["other", "--key", "missing.pem"], 2);
    std::fs::write(top.path().join("bad.pem"), "nonsense").unwrap();
    text(top.path(), NOWHERE, &["m", "--key", "bad.pem"], 64);
    std::fs::remove_file(folder.join("model.sig")).unwrap();
    text(top.path(), NOWHERE, &keyed, 2);
    std::fs::write(folder.join("model.sig"), "{\"a\":".repeat(10_000)).unwrap();
    text(top.path(), NOWHERE, &["m"], 2);
}

#[test]
fn a_broken_signature_is_not_none() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("m");
    model(&folder);
    text(top.path(), NOWHERE, &["m"], 0);
    // What a name that ends in `.json` promises is another check's.
    for name in ["model.sig", "model.sigstore", "x.sigstore.bundle"] {
        for contents in ["", "hello", "[[[[", "{}", "\0\0"] {
            std::fs::write(folder.join(name), contents).unwrap();
            let said = found(top.path(), &["m"], 2);
            let checks = said["checks"].as_array().unwrap();
            let failed = |one: &&Value| one["check"] == "signature" && one["outcome"] == "failed";
            assert_eq!(checks.iter().filter(failed).count(), 1, "{name} {contents:?}: {said:#}");
        }
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    // A detached signature of another tool.
    std::fs::write(folder.join("README.md.sig"), b"\x89\x02\x33").unwrap();
    text(top.path(), NOWHERE, &["m"], 0);
}

#[test]
fn commands_in_a_trainers_leftovers_are_grave() {
    let top = tempfile::tempdir().unwrap();
    let calls = |module: &str, name: &str| {
        [b"\x80\x02c", module.as_bytes(), b"\n", name.as_bytes(), b"\nX\x04\x00\x00\x00true\x85R."].concat()
    };
    for leftover in ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"] {
        for (number, (module, name, status)) in [
            ("posix", "system", 1),
            ("nt", "system", 1),
            ("subprocess", "Popen", 1),
            ("builtins", "eval", 1),
            ("torch.storage", "_load_from_bytes", 1),
            ("transformers.training_args", "TrainingArguments", 0),
            ("__builtin__", "getattr", 0),
        ]
        .into_iter()
        .enumerate()
        {
            let folder = format!("{leftover}-{number}");
            model(&top.path().join(&folder));
            std::fs::write(top.path().join(&folder).join(leftover), calls(module, name)).unwrap();
            let said = text(top.path(), NOWHERE, &[&folder], status);
            assert!(said.contains(&format!("{module}.{name}")), "{leftover}: {said}");
            assert_eq!(said.contains("would run code on loading"), status == 1, "{leftover}: {said}");
        }
    }
}

#[cfg(unix)]
#[test]
fn hostile_names_reach_no_terminal() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("m");
    model(&folder);
    std::fs::write(folder.join("a\u{1b}[2Jb\u{202e}.gguf"), "text").unwrap();
    std::fs::write(folder.join("line\nfeed.bin"), CODE).unwrap();
    for arguments in [&["m"][..], &["m", "--format", "json"]] {
        let said = text(top.path(), NOWHERE, arguments, 1);
        assert!(!said.contains('\u{1b}') && !said.contains('\u{202e}'), "{said}");
        assert!(said.contains("feed.bin") && !said.contains("line\nfeed"), "{said}");
    }
    text(top.path(), NOWHERE, &["m", "--format", "html"], 64);
    text(top.path(), NOWHERE, &["org/name"], 64);
}
