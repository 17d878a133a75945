#!/usr/bin/env python3
"""Runs the official clients `huggingface_hub` and `modelscope_hub` against the stand-in hub.

The stand-in is only as good as what real clients accept, so this is the referee. It needs both packages (and numpy and
safetensors to write a checkpoint), and the built example:

    cargo build --release --example standin
    python tests/oracles/hub.py target/release/examples/standin
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

TOKEN = "hf_standin_token"


def build(root: pathlib.Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    def repository(name: str, card: str, facts: dict | None = None, weights: bool = True, seed: int = 1) -> pathlib.Path:
        folder = root / name
        (folder / "nested" / "deep").mkdir(parents=True)
        (folder / "README.md").write_text(card)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
        (folder / "nested" / "deep" / "notes é #1.txt").write_text("small, with an odd name")
        if weights:
            random = numpy.random.default_rng(seed)
            save_file({"a.weight": random.standard_normal((256, 512), dtype="float32")}, folder / "model.safetensors")
        if facts:
            (folder / ".standin.json").write_text(json.dumps(facts))
        return folder

    base = repository("org/base", "---\nlicense: apache-2.0\n---\n# Base\n")
    for i in range(120):
        (base / f"extra-{i:03}.txt").write_text(f"file {i}")
    for i in range(130):
        card = "---\nbase_model: org/base\ntags: [swept]\n---\n# Derivative\n"
        repository(f"someone/derivative-{i:03}", card, {"created": f"2026-01-01T00:{i % 60:02}:{i // 60:02}.000Z"},
                   weights=i == 7, seed=i)
    repository("someone/merge", "---\nbase_model: [org/base, org/other]\n---\n")
    repository("someone/gated", "---\nbase_model: org/base\n---\n", {"gated": "manual"})
    repository("someone/auto", "---\nbase_model: org/base\n---\n", {"gated": "auto"})
    repository("someone/gone", "---\nbase_model: org/base\n---\n", {"disabled": True})


def control(hub: str, path: str, body: dict | None = None, method: str | None = None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(hub + "/-/" + path, data=data, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def raises(kind, call) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} expected")


def hugging_face(hub: str, delivery: str, root: pathlib.Path) -> None:
    from huggingface_hub import HfApi, HfFileSystem, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub import errors

    api = HfApi(endpoint=hub, token=False)
    found = list(api.list_models(filter="base_model:org/base", expand=["sha", "tags", "cardData", "gated"]))
    assert len(found) == 134, len(found)
    assert all("base_model:org/base" in model.tags for model in found)
    assert len(list(api.list_models(filter=["base_model:finetune:org/base", "swept"], limit=50))) == 50
    assert len(list(api.list_models(author="org"))) == 1
    raises(errors.HfHubHTTPError, lambda: list(api.list_models(filter="swept", expand=["baseModels"])))

    info = api.model_info("org/base", files_metadata=True)
    weights = (root / "org/base/model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    sibling = next(s for s in info.siblings if s.rfilename == "model.safetensors")
    assert sibling.lfs.sha256 == digest and sibling.size == len(weights)
    commit = info.sha
    merged = api.model_info("someone/merge", expand=["baseModels", "sha", "tags"])
    assert merged.base_models["relation"] == "merge" if isinstance(merged.base_models, dict) else merged.base_models

    tree = list(api.list_repo_tree("org/base", revision=commit, recursive=True, expand=True))
    paths = {entry.path for entry in tree}
    assert "nested/deep/notes é #1.txt" in paths and "nested/deep" in paths and len(paths) == 126, len(paths)
    listed = next(entry for entry in tree if entry.path == "model.safetensors")
    assert listed.lfs.sha256 == digest and listed.blob_id != digest
    facts = api.get_paths_info("org/base", ["model.safetensors", "missing.bin"], revision=commit)
    assert [fact.path for fact in facts] == ["model.safetensors"]
    assert api.list_repo_refs("org/base").branches[0].target_commit == commit

    header = api.get_safetensors_metadata("org/base")
    assert header.files_metadata["model.safetensors"].tensors["a.weight"].shape == [256, 512]
    path = hf_hub_download("org/base", "model.safetensors", endpoint=hub, token=False)
    assert pathlib.Path(path).read_bytes() == weights
    path = hf_hub_download("org/base", "nested/deep/notes é #1.txt", endpoint=hub, token=False)
    assert pathlib.Path(path).read_text() == "small, with an odd name"
    files = HfFileSystem(endpoint=hub, token=False)
    with files.open("org/base/model.safetensors", "rb") as opened:
        opened.seek(1000)
        assert opened.read(5000) == weights[1000:6000]
    metadata = get_hf_file_metadata(hf_hub_url("org/base", "model.safetensors", endpoint=hub), token=False)
    assert metadata.etag == digest and metadata.commit_hash == commit and metadata.size == len(weights)

    raises(errors.RepositoryNotFoundError, lambda: api.model_info("no/such"))
    raises(errors.RevisionNotFoundError, lambda: api.model_info("org/base", revision="nowhere"))
    raises(errors.EntryNotFoundError, lambda: hf_hub_download("org/base", "no.txt", endpoint=hub, token=False))
    raises(errors.GatedRepoError, lambda: get_hf_file_metadata(
        hf_hub_url("someone/gated", "model.safetensors", endpoint=hub), token=False))
    assert api.model_info("someone/gated").gated == "manual"
    raises(errors.DisabledRepoError, lambda: api.model_info("someone/gone"))
    path = hf_hub_download("someone/auto", "model.safetensors", endpoint=hub, token=TOKEN)
    assert pathlib.Path(path).stat().st_size > 0

    control(hub, "fault", {"fault": "unavailable", "part": "/tree/", "times": 2})
    assert len(list(api.list_repo_tree("someone/derivative-007", recursive=True))) == 6
    control(hub, "fault", {"fault": "truncated", "part": "/bridge/", "times": 1})
    path = hf_hub_download("someone/derivative-007", "model.safetensors", endpoint=hub, token=False)
    assert pathlib.Path(path).read_bytes() == (root / "someone/derivative-007/model.safetensors").read_bytes()
    control(hub, "fault", {"fault": "limited", "part": "/api/models/someone/merge/tree", "times": 1})
    start = time.monotonic()
    assert len(list(api.list_repo_tree("someone/merge"))) == 4
    assert time.monotonic() - start >= 1.0

    log = control(hub, "log")
    assert any(entry["port"] == "delivery" for entry in log)
    assert any(entry["port"] == "hub" and entry["credentials"] for entry in log)
    assert not any(entry["port"] == "delivery" and entry["credentials"] for entry in log)
    print(f"huggingface_hub: ok ({len(log)} requests)")


def model_scope(hub: str, root: pathlib.Path) -> None:
    from modelscope_hub import HubApi

    control(hub, "log", method="DELETE")
    api = HubApi(endpoint=hub)
    page = api.list_repos("model", owner="someone", page_size=50)
    assert page.total_count == 134 and len(page.items) == 50, (page.total_count, len(page.items))
    assert api.list_repos("model", search="derivative-007").items[0].id == "someone/derivative-007"
    files = api.list_repo_files("org/base", "model")
    weights = (root / "org/base/model.safetensors").read_bytes()
    listed = next(entry for entry in files if entry.path == "model.safetensors")
    assert listed.sha256 == hashlib.sha256(weights).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        path = api.download_file("org/base", file_path="model.safetensors", repo_type="model", local_dir=folder)
        assert pathlib.Path(path).read_bytes() == weights
        api.download_repo("someone/derivative-007", repo_type="model", local_dir=folder + "/repo")
        assert (pathlib.Path(folder) / "repo/nested/deep/notes é #1.txt").read_text().startswith("small")
    log = control(hub, "log")
    assert not any(entry["port"] == "delivery" and entry["credentials"] for entry in log)
    print(f"modelscope_hub: ok ({len(log)} requests)")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "repositories"
        root.mkdir()
        os.environ.update({
            "HF_HOME": folder + "/hf", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "MODELSCOPE_CACHE": folder + "/ms", "HOME": folder,
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        })
        build(root)
        server = subprocess.Popen([sys.argv[1], str(root), TOKEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            addresses = json.loads(server.stdout.readline())
            os.environ["HF_ENDPOINT"] = addresses["hub"]
            os.environ["MODELSCOPE_ENDPOINT"] = addresses["hub"]
            hugging_face(addresses["hub"], addresses["delivery"], root)
            model_scope(addresses["hub"], root)
        finally:
            server.stdin.close()
            assert server.wait(10) == 0, "the stand-in must stop when its input closes"


if __name__ == "__main__":
    main()
