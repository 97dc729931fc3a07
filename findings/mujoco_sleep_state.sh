#!/usr/bin/env bash
# A simulation with sleeping bodies is not continued by its saved state, nor by a pickle of its MjData.
#
# Expected: mj_getState/mj_setState with mjSTATE_INTEGRATION, and pickling MjData, continue a simulation exactly, as they
# do without sleep and as copy.copy(data) does with it.
# What happens: with <flag sleep="enable"/> the restored state takes another course, since no state vector holds which
# trees sleep, and setting `tree_asleep` by hand changes nothing; the unpickled MjData raises FatalError at its next step.
# Who meets it: whoever checkpoints simulations, or sends them to worker processes, with MuJoCo 4's sleep switched on.
# Where it comes from: sleep keeps islands and lists of awake bodies beside the state; mujoco.batch says so itself (it
# wants persistent=True with sleep). Seen with a plane, a ball, a box and a driven pendulum.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mujoco==4.0.0 mujoco-core==4.0.0 mujoco-studio==4.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import pickle

import mujoco
import numpy as np

print("mujoco", mujoco.__version__)
XML = """<mujoco><option timestep="0.005"><flag sleep="{}"/></option><worldbody><geom type="plane" size="5 5 .1"/>
<body pos="0 0 .1"><freejoint/><geom size=".1"/></body><body pos="1 0 .3"><freejoint/><geom type="box" size=".1 .1 .1"/></body>
<body pos="2 0 1"><joint name="hinge" axis="0 1 0" damping=".1"/><geom type="capsule" size=".05" fromto="0 0 0 .5 0 0"/></body>
</worldbody><actuator><motor joint="hinge"/></actuator></mujoco>"""
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def play(model, data, n_steps, seed):
    rng, positions = np.random.default_rng(seed), []
    for _ in range(n_steps):
        data.ctrl[:] = 0.5 * rng.normal()
        mujoco.mj_step(model, data)
        positions.append(data.qpos.copy())
    return np.array(positions)


def ways(sleep):
    model = mujoco.MjModel.from_xml_string(XML.format(sleep))
    data = mujoco.MjData(model)
    play(model, data, 400, 0)
    state = np.empty(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, data, state, STATE)
    restored = mujoco.MjData(model)
    mujoco.mj_setState(model, restored, state, STATE)
    copies = {"copy.copy": copy.copy(data), "pickle": pickle.loads(pickle.dumps(data)), "mj_setState": restored}
    expected, results = play(model, data, 300, 1), {}
    for name, other in copies.items():
        try:
            results[name] = "continues" if np.array_equal(play(model, other, 300, 1), expected) else "differs"
        except mujoco.FatalError:
            results[name] = "raises FatalError"
    print(f"sleep {sleep}:", ", ".join(f"{name} {result}" for name, result in results.items()))
    return results


assert set(ways("disable").values()) == {"continues"}
assert ways("enable") == {"copy.copy": "continues", "pickle": "raises FatalError", "mj_setState": "differs"}
print("as described")
PYTHON
