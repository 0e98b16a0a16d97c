#!/usr/bin/env python3
"""Names of models where people keep them: "org/name" in the hub's cache, "name:tag" in Ollama's store."""
import json
import shutil
import tempfile
from pathlib import Path

from harness import MODEL, ROOT, kvrt, main, test

GGUF = Path(ROOT) / "test/fuzz/corpus/gguf/kinds"


def cache(folder, name, commit="0123abcd"):
    model = Path(folder) / "hub" / ("models--" + name.replace("/", "--"))
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(commit)
    (model / "snapshots" / commit).mkdir(parents=True)
    return model / "snapshots" / commit


@test
def a_folder_in_the_hubs_cache():
    with tempfile.TemporaryDirectory() as home:
        snapshot = cache(home, "some/story")
        for file in Path(MODEL).iterdir():
            (snapshot / file.name).symlink_to(file.resolve())
        expected = kvrt("tokenize", MODEL, "Hello").out
        for env in ({"HF_HOME": home}, {"HF_HUB_CACHE": home + "/hub"}):
            assert kvrt("tokenize", "some/story", "Hello", env=env).expect(0, []).out == expected
        kvrt("tokenize", "some/other", "Hello", env={"HF_HOME": home}).expect(3, ["some/other", "no such file"])
        kvrt("tokenize", "../some/story", "Hello", env={"HF_HOME": home}).expect(3, ["no such file"])


@test
def a_file_in_the_hubs_cache():
    with tempfile.TemporaryDirectory() as home:
        snapshot = cache(home, "some/files")
        shutil.copy(GGUF, snapshot / "m-Q8_0.gguf")
        env = {"HF_HOME": home}
        kvrt("run", "some/files", "-p", "x", env=env).expect(3, ["m-Q8_0.gguf: key llama.block_count: not found"])
        shutil.copy(GGUF, snapshot / "m-Q4_K_M.gguf")
        kvrt("run", "some/files:q4_k_m", "-p", "x", env=env).expect(3, ["m-Q4_K_M.gguf: key llama.block_count"])
        kvrt("run", "some/files", "-p", "x", env=env).expect(3, ["2 GGUF models and no config.json", "name the file"])


@test
def ollamas_store():
    with tempfile.TemporaryDirectory() as store:
        digest = "ab" * 32
        manifest = Path(store) / "manifests/some.registry/library/story/latest"
        manifest.parent.mkdir(parents=True)
        (Path(store) / "blobs").mkdir()
        shutil.copy(GGUF, Path(store) / "blobs" / ("sha256-" + digest))
        layers = [{"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "cd" * 32, "size": 1},
                  {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + digest, "size": 448}]
        manifest.write_text(json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:" + "ef" * 32}, "layers": layers}))
        for name in ("story", "story:latest"):
            kvrt("run", name, "-p", "x", env={"OLLAMA_MODELS": store}).expect(3, ["sha256-" + digest, "llama.block_count"])
        kvrt("run", "story:other", "-p", "x", env={"OLLAMA_MODELS": store}).expect(3, ["model story:other: no such file"])


main()
