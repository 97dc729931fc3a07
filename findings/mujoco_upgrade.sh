#!/usr/bin/env bash
# MuJoCo: an upgrade in place from 3 to 4 cannot be imported, and `pip check` is content.
#
# Expected: after `pip install mujoco==4.0.0` over 3.17.0, which ends without an error, `import mujoco` works.
# Seen: `import mujoco` raises ImportError: the core bindings are missing. `pip check` finds no broken requirement.
#   After uninstalling all parts and installing again, the import works.
# Who meets it: whoever upgrades MuJoCo with pip, on its own or through another package's requirement or constraints.
# Where it comes from: MuJoCo 4 is three distributions, and `mujoco-core` installs into the folder that belonged to
#   `mujoco` 3. pip installs `mujoco-core` first, then removes the files of `mujoco` 3, which have the same names.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
python() { (cd "$folder" && "$folder/venv/bin/python" "$@"); }

pip install -q mujoco==3.17.0 numpy==2.4.6
echo "installed: MuJoCo $(python -c 'import mujoco; print(mujoco.__version__)')"
pip install -q mujoco==4.0.0
pip list --format=freeze | grep '^mujoco'
echo "pip check: $(pip check)"
if output=$(python -c 'import mujoco' 2>&1); then
    echo "CHANGED: import mujoco works after the upgrade"
    exit 1
fi
echo "import mujoco: $(grep '^ImportError' <<<"$output")"
grep -q '^ImportError' <<<"$output"

pip uninstall -q -y mujoco mujoco-core mujoco-studio
pip install -q mujoco==4.0.0
echo "installed again: MuJoCo $(python -c 'import mujoco; print(mujoco.__version__)')"
