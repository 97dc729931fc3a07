#!/usr/bin/env bash
# Minari: a dataset is written whatever its space says, and a write that fails leaves a dataset that is listed and empty.
#
# Expected: a space that is given with the episodes is checked against them, as is the number of observations, which is one
#   more than that of the steps. A write that raises leaves nothing, or a second one repairs it.
# Seen: observations of another shape and type than the space, and an episode without its last observation, are written and
#   read back without a word. A value that HDF5 cannot hold, here in the infos, raises TypeError; after it the dataset is
#   listed, loads with no episode, and its name is refused as taken.
# Who meets it: whoever converts recordings of their own, such as a teacher's for offline distillation: a wrong axis shows up
#   in training, and a script that failed once fails differently the second time.
# Beside it: the extra `hdf5` imports Pillow and does not ask for it.
# Where it comes from: `create_dataset_from_buffers` makes the folder and its metadata first, writes episode by episode, and
#   asks the space for its serialisation alone (minari/utils.py, minari/dataset/_storages/hdf5_storage.py).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export MINARI_DATASETS_PATH="$folder/datasets"
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check "minari[hdf5]==0.5.4" gymnasium==1.4.0 \
  h5py==3.16.0 numpy==2.4.6 pillow==11.3.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer

SPACE = Box(-1, 1, (3,))


def write(name, observations, infos=None):
    buffer = EpisodeBuffer(
        observations=observations,
        actions=np.zeros((2, 3), dtype=np.float32),
        rewards=[0.0, 0.0],
        terminations=[False, False],
        truncations=[False, True],
        infos=infos,
    )
    minari.create_dataset_from_buffers(name, [buffer], observation_space=SPACE, action_space=SPACE)
    return next(iter(minari.load_dataset(name).iterate_episodes()))


wide = write("own/wide-v0", np.zeros((3, 5)))
short = write("own/short-v0", np.zeros((2, 3), dtype=np.float32))
fitting = np.zeros((3, 3), dtype=np.float32)
errors = []
for infos in ({"note": [1, "a"]}, None):
    try:
        write("own/half-v0", fitting, infos)
    except (TypeError, ValueError) as e:
        errors.append(type(e).__name__)
listed = "own/half-v0" in minari.list_local_datasets()
n_episodes = minari.load_dataset("own/half-v0").total_episodes
print(f"Minari {minari.__version__}")
print(f"  space {SPACE.shape} {SPACE.dtype}, observations {wide.observations.shape} {wide.observations.dtype}: read back")
print(f"  two steps, {len(short.observations)} observations: read back")
print(f"  a write that fails, and the same name again: {errors}; listed: {listed}, with {n_episodes} episodes")
as_described = (
    wide.observations.shape == (3, 5)
    and wide.observations.dtype == np.float64
    and len(short.observations) == len(short.actions) == 2
    and errors == ["TypeError", "ValueError"]
    and listed
    and n_episodes == 0
)
print("as described" if as_described else "CHANGED")
sys.exit(not as_described)
PYTHON
