#!/usr/bin/env bash
# Gymnasium: two Dict spaces that are equal flatten the same observation into vectors of other orders.
#
# Expected: spaces that compare equal are interchangeable: `flatten` gives the same vector, or they are not equal. The
#   documentation of Dict says that keys are sorted, so that the order in which they are given does not matter.
# Seen: keys of a dictionary are sorted, keys given by name are not; the spaces are equal, their flattened spaces too, and
#   the vectors are not. `FlattenObservation` passes them on.
# Who meets it: whoever trains a policy on flattened observations and plays it in an environment that writes its space in
#   the other way, such as another version of it: every check of spaces passes, and the inputs are permuted.
# Where it comes from: `Dict.__init__` sorts a Mapping before it adds the keyword arguments as they come, and `Dict.__eq__`
#   compares dictionaries, for which order does not count (gymnasium/spaces/dict.py).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import gymnasium
import numpy as np
from gymnasium import spaces

parts = {"velocity": spaces.Box(-1, 1, (1,)), "angle": spaces.Box(-1, 1, (2,))}
first, second = spaces.Dict(parts), spaces.Dict(**parts)
observation = {"velocity": np.float32([0.5]), "angle": np.float32([0.125, 0.25])}
vectors = [spaces.flatten(space, observation).tolist() for space in (first, second)]
flat_equal = spaces.flatten_space(first) == spaces.flatten_space(second)
print(f"Gymnasium {gymnasium.__version__}")
print(f"  Dict(parts) == Dict(**parts): {first == second}; flattened spaces equal: {flat_equal}")
print(f"  keys {list(first)}: {vectors[0]}")
print(f"  keys {list(second)}: {vectors[1]}")
as_described = first == second and flat_equal and vectors == [[0.125, 0.25, 0.5], [0.5, 0.125, 0.25]]
print("as described" if as_described else "CHANGED")
sys.exit(not as_described)
PYTHON
