#!/usr/bin/env bash
# Ray: once Ray has been started by `ray.init` on a machine, no actor starts on a cluster that `ray start` had begun there.
#
# Expected: `ray.init()` connects to the cluster as before, and an actor answers; or an error speaks of authentication.
# Seen: `ray.init()` connects, and every actor is dead "because all references to the actor were removed including
#   lineage ref count. The actor never ran - it was cancelled before it started running."
#   With RAY_AUTH_MODE=disabled, or with the cluster's address in RAY_ADDRESS, the actor answers.
# Who meets it: whoever keeps a cluster running and runs anything else that starts a Ray of its own, such as tests.
# Where it comes from: a Ray that `ray.init` starts writes ~/.ray/auth_token. From then on `ray.init()` asks for this token
#   wherever it finds a cluster by itself, also from processes of a cluster that began without one
#   (`maybe_enable_token_auth_if_token_available` in ray/_private/authentication/authentication_token_setup.py).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check ray==2.60.0
export HOME=$folder RAY_TMPDIR=$folder RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH
cat >"$folder/actor.py" <<'PYTHON'
import ray

ray.init(log_to_driver=False, logging_level="ERROR")


@ray.remote
class Actor:
    def answer(self):
        return "an answer"


actor = Actor.remote()
try:
    print(ray.get(actor.answer.remote()))
except ray.exceptions.RayActorError as e:
    print(next(line for line in str(e).splitlines() if "references" in line))
PYTHON
"$folder/venv/bin/ray" start --head --port=0 --num-cpus=2 --include-dashboard=false --block >"$folder/head.log" 2>&1 &
head=$!
trap 'kill $head; wait $head || true; rm -rf "$folder"' EXIT
for _ in $(seq 120); do
    grep -q "block forever" "$folder/head.log" && break
    sleep 0.5
done
first=$("$folder/venv/bin/python" "$folder/actor.py")
RAY_ADDRESS=local "$folder/venv/bin/python" "$folder/actor.py" >"$folder/other.log"  # a Ray of its own
second=$("$folder/venv/bin/python" "$folder/actor.py")
third=$(RAY_AUTH_MODE=disabled "$folder/venv/bin/python" "$folder/actor.py")
echo "before another Ray was started: $first"
echo "after it: $second"
echo "with RAY_AUTH_MODE=disabled: $third"
if [[ $first == "an answer" && $second == *"all references to the actor were removed"* && $third == "an answer" ]]; then
    echo "as described"
else
    echo "CHANGED"
    exit 1
fi
