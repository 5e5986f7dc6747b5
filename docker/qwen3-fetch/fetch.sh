#!/usr/bin/env bash
# Pulls a Qwen3 checkpoint from the Hugging Face hub into ./weights.
#
#     docker/qwen3-fetch/fetch.sh OWNER/NAME [REVISION]
#
# Runs as the calling user, so the files belong to that user.  HF_TOKEN is passed on when it is set.
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 1
}

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 OWNER/NAME [REVISION], for example Qwen/Qwen3-0.6B" >&2
    exit 2
fi
command -v docker > /dev/null || fail "docker is not installed; without it, put the files of the repository into weights/NAME yourself"
docker info > /dev/null 2>&1 || fail "docker is installed, but its daemon does not answer (docker info tells why); is it running, and may you use it?"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "$root/weights"

docker build --quiet --tag rlx-qwen3-fetch "$here" > /dev/null
docker run --rm --user "$(id -u):$(id -g)" --volume "$root/weights:/weights" ${HF_TOKEN:+--env HF_TOKEN} rlx-qwen3-fetch "$@"

echo "weights/${1##*/} is there.  Try: just qwen3 weights/${1##*/} --prompt Hello"
