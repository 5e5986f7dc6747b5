"""Downloads the files of a Qwen3 checkpoint: fetch.py OWNER/NAME [REVISION] -> /weights/NAME."""

import json
import os
import re
import sys

from huggingface_hub import snapshot_download

# Weights, settings and text; no other framework's weights.
FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "LICENSE*",
    "README.md",
]


def fail(why):
    sys.exit(f"error: {why}")


def main(args):
    if not 1 <= len(args) <= 2:
        fail("usage: OWNER/NAME [REVISION], for example Qwen/Qwen3-0.6B")
    repo, revision = args[0], args[1] if len(args) == 2 else "main"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        fail(f"{repo!r} is not a repository of the hub; expected OWNER/NAME, for example Qwen/Qwen3-0.6B")
    target = os.path.join(os.environ.get("WEIGHTS", "/weights"), repo.split("/")[1])
    try:
        snapshot_download(repo, revision=revision, local_dir=target, allow_patterns=FILES)
    except Exception as e:  # whatever it is, one line says it
        fail(f"cannot download {repo} at {revision}: {e}")

    for name in ("config.json", "tokenizer.json"):
        if not os.path.exists(os.path.join(target, name)):
            fail(f"{repo} at {revision} has no {name}")
    with open(os.path.join(target, "config.json")) as f:
        kind = json.load(f).get("model_type")
    if kind != "qwen3":
        fail(f"{repo} is a {kind!r} model, not qwen3; its files are in {os.path.basename(target)}")
    if not any(name.endswith(".safetensors") for name in os.listdir(target)):
        fail(f"{repo} at {revision} has no safetensors")


if __name__ == "__main__":
    main(sys.argv[1:])
