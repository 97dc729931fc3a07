#!/usr/bin/env bash
# rl_games: `seed: 0` seeds nothing, and loading a config replaces torch's number of threads.
#
# Expected: two trainings with `seed: 0` are the same, as two with `seed: 1` are; OMP_NUM_THREADS and
#   `torch.set_num_threads` are respected.
# Seen: with `seed: 0` torch, numpy and `random` are not seeded, and the environments get no seed, without a word. With
#   OMP_NUM_THREADS=1 torch has as many threads as the machine has CPUs, at most four, once `Runner.load` has returned.
# Who meets it: whoever numbers seeds from 0, and whoever runs one training per core side by side.
# Where it comes from: `if self.seed:` and `torch.set_num_threads` in `Runner.load_config`. The key `torch_threads`
#   beside `seed` sets the number.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
    rl-games==1.6.5 torch==2.13.0 numpy==2.4.6 gymnasium==1.4.0
cat >"$folder/load.py" <<'PYTHON'
import os
import random
import sys

import numpy as np
import torch
from rl_games.torch_runner import Runner

os.cpu_count = lambda: 3  # the same answer on every machine
threads = torch.get_num_threads()
config = {"name": "cheetah", "reward_shaper": {"scale_value": 1}, "env_config": {}}
runner = Runner()
runner.load({"params": {"algo": {"name": "a2c_continuous"}, "seed": int(sys.argv[1]), "config": config}})
seed_of_envs = runner.params["config"]["env_config"].get("seed")
print(torch.rand(1).item(), np.random.rand(), random.random(), seed_of_envs, threads, torch.get_num_threads())
PYTHON
cat >"$folder/compare.py" <<'PYTHON'
import subprocess
import sys


def drawn(seed):
    command = [sys.executable, sys.argv[1], str(seed)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    *numbers, seed_of_envs, before, after = output.splitlines()[-1].split()
    print(f"  seed {seed}: torch, numpy, random draw {numbers}; seed of the envs {seed_of_envs}; threads {before}, {after}")
    return numbers, seed_of_envs, (before, after)


print("Two processes each, OMP_NUM_THREADS=1:")
zero, zero_again, one, one_again = drawn(0), drawn(0), drawn(1), drawn(1)
as_seen = (
    all(a != b for a, b in zip(zero[0], zero_again[0]))
    and zero[1] == "None"
    and one == one_again
    and one[1] == "1"
    and one[2] == zero[2] == ("1", "3")
)
print("as described" if as_seen else "CHANGED")
sys.exit(not as_seen)
PYTHON
OMP_NUM_THREADS=1 "$folder/venv/bin/python" "$folder/compare.py" "$folder/load.py"
