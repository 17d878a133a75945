#!/usr/bin/env python3
"""Model signatures and lists of checksums made by other tools, verified by orthoscope.

    python3 -m venv v && v/bin/pip install model-signing pyopenssl && cargo build --release
    v/bin/python tests/oracles/verify.py target/release/orthoscope

The signer is the reference implementation (PyPI `model-signing`); lists come from coreutils, if it is there. Every
signature is verified, then the folder is changed in each way that must be told: a byte, a name, one file more, one file
less. The reference must refuse the same folders.
"""

import datetime
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import model_signing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing._signing import sign_sigstore_pb, signing

TOOL = pathlib.Path(sys.argv[1]).resolve()
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
CHECKED = 0


def run(*arguments, expect):
    """One run; its exit status must be the expected one, its answer is returned."""
    global CHECKED
    CHECKED += 1
    ran = subprocess.run([TOOL, "verify", *map(str, arguments), "--format", "json"], capture_output=True, text=True)
    assert ran.returncode == expect, (arguments, ran.returncode, ran.stdout, ran.stderr)
    return json.loads(ran.stdout) if ran.stdout else None


def safetensors(name):
    header = json.dumps({name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(range(16))


def model(folder):
    """A folder with weights, a file in a folder, an empty file and a name that needs escaping."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors("a"))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "sub").mkdir()
    (folder / "sub" / "extra.safetensors").write_bytes(safetensors("b"))
    (folder / "sub" / "empty.txt").write_text("")
    (folder / "it's \"quoted\".txt").write_text("text")
    (folder / ".hidden").write_text("hidden")


def keys(folder, name, curve):
    private = ec.generate_private_key(curve)
    (folder / f"{name}.key").write_bytes(private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (folder / f"{name}.pem").write_bytes(private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private


def certificate(folder, name, private):
    """A certificate that signs itself and may sign code."""
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a tiny publisher")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(private.public_key())
            .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(True, False, False, False, False, True, False, False, False), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name("publisher@example.org")]), critical=False)
            .sign(private, hashes.SHA256()))
    (folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))


def hashing(kind, signature):
    config = model_signing.hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True)
    if kind == "shards":
        config.use_shard_serialization(hashing_algorithm="sha256", shard_size=30, ignore_paths=[signature.name])
    else:
        config.use_file_serialization(hashing_algorithm=kind, ignore_paths=[signature.name])
    return config


def change_byte(folder):
    path = folder / "sub" / "extra.safetensors"
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    return "sub/extra.safetensors"


def rename(folder):
    (folder / "config.json").rename(folder / "other.json")
    return "other.json"


def add(folder):
    (folder / "planted.py").write_text("print()")
    return "planted.py"


def remove(folder):
    (folder / ".hidden").unlink()
    return ".hidden"


def append(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")
    return "model.safetensors"


def refused_by_reference(folder, signature, public):
    try:
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).verify(folder, signature)
    except ValueError:
        return True
    return False


def signatures(top):
    for curve, parameters in CURVES.items():
        private = keys(top, curve, parameters)
        keys(top, f"{curve}-other", parameters)
        certificate(top, curve, private)
        for kind in ("sha256", "blake2", "blake3", "shards") if curve == "p256" else ("sha256",):
            folder = top / f"{curve}-{kind}"
            model(folder)
            signature = folder / "model.sig"
            (model_signing.signing.Config().use_elliptic_key_signer(private_key=top / f"{curve}.key")
             .set_hashing_config(hashing(kind, signature)).sign(folder, signature))
            public = top / f"{curve}.pem"
            found = run(folder, "--key", public, expect=0)
            assert found["result"] == "agrees", found
            assert found["references"][0]["signature"]["state"] == "verified", found
            unchecked = run(folder, expect=0)
            assert unchecked["references"][0]["signature"]["state"] == "not-checked", unchecked
            run(folder, "--key", top / f"{curve}-other.pem", expect=1)
            run(folder, "--key", top / f"{curve}.crt", expect=0)
            for edit in (change_byte, rename, add, remove, append):
                copy = top / "copy"
                shutil.copytree(folder, copy)
                named = edit(copy)
                found = run(copy, "--key", public, expect=1)
                wrong = [file["name"] for file in found["files"]
                         if any(check["outcome"] == "differs" for check in file["checks"])]
                assert named in wrong, (edit.__name__, named, wrong)
                # The reference (1.1.1) cannot read its own BLAKE2b and sharded signatures back: it does not know the name
                # "blake2b" again, and finds the shard's length as a float.
                if kind in ("sha256", "blake3"):
                    assert refused_by_reference(copy, copy / "model.sig", public), edit.__name__
                shutil.rmtree(copy)
            tampered(folder, signature, public)
    certified(top)
    keyless(top)
    first_release(top)


def tampered(folder, signature, public):
    """A bundle whose payload was changed after signing, with its digests made right again."""
    import base64
    bundle = json.loads(signature.read_text())
    held = signature.read_text()
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    statement["predicate"]["resources"][0]["name"] += "x"
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    signature.write_text(json.dumps(bundle))
    found = run(folder, "--key", public, expect=1)
    assert found["references"][0]["signature"]["state"] == "differs", found
    signature.write_text(held)


def certified(top):
    """A certificate in the bundle: shown, never believed by itself."""
    folder = top / "certified"
    model(folder)
    signature = folder / "model.sig"
    (model_signing.signing.Config()
     .use_certificate_signer(private_key=top / "p384.key", signing_certificate=top / "p384.crt",
                             certificate_chain=[top / "p384.crt"])
     .set_hashing_config(hashing("sha256", signature)).sign(folder, signature))
    found = run(folder, expect=0)
    told = found["references"][0]["signature"]
    assert told["state"] == "not-checked" and told["identity"] == "publisher@example.org", told
    assert "a tiny publisher" in told["subject"], told
    found = run(folder, "--key", top / "p384.crt", expect=0)
    assert found["references"][0]["signature"]["state"] == "verified", found
    run(folder, "--key", top / "p384-other.pem", expect=1)


def keyless(top):
    """A bundle as Sigstore's keyless signing makes it: identity and issuer shown, nothing believed."""
    import base64
    private = serialization.load_pem_private_key((top / "p256.key").read_bytes(), None)
    now = datetime.datetime.now(datetime.timezone.utc)
    issuer = "https://accounts.example.org"
    nobody = x509.Name([])
    authority = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "an authority")])
    made = (x509.CertificateBuilder().subject_name(nobody).issuer_name(authority).public_key(private.public_key())
            .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(minutes=10))
            .add_extension(x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier("https://code.example.org/o/n/.github/workflows/sign.yml@main")]),
                critical=True)
            .add_extension(x509.UnrecognizedExtension(
                x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), b"https://older.example.org"), critical=False)
            .add_extension(x509.UnrecognizedExtension(
                x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8"),
                bytes([12, len(issuer)]) + issuer.encode()), critical=False)
            .sign(private, hashes.SHA256()))
    folder = top / "keyless"
    shutil.copytree(top / "p256-sha256", folder)
    bundle = json.loads((folder / "model.sig").read_text())
    bundle["verificationMaterial"] = {
        "certificate": {"rawBytes": base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()},
        "tlogEntries": [{"logIndex": "1"}]}
    (folder / "model.sig").write_text(json.dumps(bundle))
    told = run(folder, expect=0)["references"][0]["signature"]
    assert told["state"] == "not-checked" and told["issuer"] == issuer and told["log_entries"] == 1, told
    assert told["identity"].startswith("https://code.example.org/"), told
    # With another key's certificate the signature contradicts itself, whoever is asked.
    other = x509.load_pem_x509_certificate((top / "p384.crt").read_bytes())
    bundle["verificationMaterial"]["certificate"]["rawBytes"] = base64.b64encode(
        other.public_bytes(serialization.Encoding.DER)).decode()
    (folder / "model.sig").write_text(json.dumps(bundle))
    run(folder, expect=1)


def first_release(top):
    """The predicate and the faulty encoding of version 0.2, signed here as it was signed then."""
    import base64
    private = serialization.load_pem_private_key((top / "p256.key").read_bytes(), None)
    folder = top / "before"
    model(folder)
    subjects = [{"name": path.relative_to(folder).as_posix(),
                 "digest": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
                for path in sorted(folder.rglob("*")) if path.is_file()]
    payload = json.dumps({"_type": "https://in-toto.io/Statement/v1", "subject": subjects,
                          "predicateType": signing._PREDICATE_TYPE_COMPAT, "predicate": {"unused": "it's"}},
                         indent=1).encode()
    made = private.sign(sign_sigstore_pb.pae_compat(payload), ec.ECDSA(hashes.SHA256()))
    encode = lambda held: base64.b64encode(held).decode()
    bundle = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
              "verificationMaterial": {"publicKey": {}},
              "dsseEnvelope": {"payload": encode(payload), "payloadType": "application/vnd.in-toto+json",
                               "signatures": [{"sig": encode(made), "keyid": ""}]}}
    (folder / "model.sig").write_text(json.dumps(bundle))
    found = run(folder, "--key", top / "p256.pem", expect=0)
    assert found["references"][0]["signature"]["state"] == "verified", found


def checksums(top):
    """Lists that coreutils wrote, in each of its forms, with names that it escapes."""
    if shutil.which("sha256sum") is None:
        print("no sha256sum here: lists of checksums are left out")
        return
    for number, options in enumerate(([], ["--binary"], ["--tag"])):
        folder = top / f"sums{number}"
        model(folder)
        (folder / "back\\slash and\nline feed").write_text("odd")
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        listed = subprocess.run(["sha256sum", *options, *names], cwd=folder, capture_output=True, check=True).stdout
        (folder / "SHA256SUMS").write_bytes(listed)
        found = run(folder, expect=0)
        assert found["counts"]["hashed"] == len(names), found["counts"]
        outside = top / "list.txt"
        outside.write_bytes(listed)
        (folder / "SHA256SUMS").unlink()
        run(folder, "--manifest", outside, expect=0)
        change_byte(folder)
        run(folder, "--manifest", outside, expect=1)
        if not options:
            (folder / "config.json").unlink()
            change_byte(folder)
            run(folder, "--manifest", outside, expect=2)


def git_names(top):
    """Names of small files in a hub's cache are git's own."""
    if shutil.which("git") is None:
        print("no git here: git names are left out")
        return
    repo = top / "cache" / "models--o--n"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for name, held in (("config.json", b'{"a": 1}'), ("empty.txt", b"")):
        blob = subprocess.run(["git", "hash-object", "--stdin"], input=held, capture_output=True, check=True)
        blob = blob.stdout.decode().strip()
        (repo / "blobs" / blob).write_bytes(held)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    held = safetensors("a")
    blob = hashlib.sha256(held).hexdigest()
    (repo / "blobs" / blob).write_bytes(held)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{blob}")
    found = run(repo, expect=0)
    assert found["result"] == "agrees" and found["counts"]["hashed"] == 3, found
    (repo / "blobs" / blob).write_bytes(safetensors("b"))
    run(repo, expect=1)


def main():
    with tempfile.TemporaryDirectory() as folder:
        top = pathlib.Path(folder)
        signatures(top)
        checksums(top)
        git_names(top)
    print(f"{CHECKED} runs, all as expected")


main()
