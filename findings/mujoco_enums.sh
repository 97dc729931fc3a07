#!/usr/bin/env bash
# MuJoCo: comparing an enum with a model's number depends on which of them stands on the left, from 3.12 on.
#
# Expected: `mjtJoint.mjJNT_FREE == model.jnt_type[0]` and `model.jnt_type[0] == mjtJoint.mjJNT_FREE` agree, and
#   `mjtJoint.mjJNT_FREE == model.jnt_type` compares element by element, as with 3.11.
# Seen: with the number or array on the left the comparison is true; with the enum on the left it is a plain False.
#   `number in (enum, ...)` is affected likewise.
# Who meets it: whoever reads types from a model by MuJoCo's names; gymnasium-robotics 1.4.2 (Fetch, hand and kitchen
#   environments fail with an AssertionError without a message).
# Where it comes from: from 3.12 on the enum's own `==` answers False for numpy's integers instead of leaving the
#   comparison to numpy.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cat >"$folder/compare.py" <<'PYTHON'
import sys

import mujoco

model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
)
free, number = mujoco.mjtJoint.mjJNT_FREE, model.jnt_type[0]
seen = {
    "number == enum": bool(number == free),
    "enum == number": bool(free == number),
    "enum == int(number)": bool(free == int(number)),
    "(array == enum).all()": bool((model.jnt_type == free).all()),
    "enum == array": bool(free == model.jnt_type),
    "number in (enum,)": number in (free,),
}
print(f"MuJoCo {mujoco.__version__}, {type(number)}")
for comparison, result in seen.items():
    print(f"  {comparison}: {result}")
sys.exit(list(seen.values()) != [answer == "True" for answer in sys.argv[1:]])
PYTHON

status=0
compare() { # version, then the expected answers
    "$folder/venv/bin/python" -m pip install -q --disable-pip-version-check "mujoco==$1" numpy==2.4.6
    "$folder/venv/bin/python" "$folder/compare.py" "${@:2}" || { echo "CHANGED with MuJoCo $1" && status=1; }
}
compare 3.11.0 True True True True True True
compare 3.12.0 True False True True False False
compare 3.17.0 True False True True False False
exit "$status"
