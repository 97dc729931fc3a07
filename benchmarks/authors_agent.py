"""The paper's authors' own agent of a body variant, from 2017, played on today's environments.

    git clone https://github.com/jasonkrone/elen6885-final-project
    python benchmarks/authors_agent.py elen6885-final-project/src/trained_models/a2c/HopperSmallFoot-v0.pt

It plays 20 episodes on the body that it was trained on and on the others, with the means of its Gaussian and with
samples, and writes ``results/authors_agent/returns.json``, from which the table in that folder's README is made. The
file is read as arrays; nothing in it is run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

import sb3_multitask as mt
from sb3_multitask.agents.torch_modules import AUTHORS_A2C
from sb3_multitask.readers import read_torch_module

ENVS = (
    *("HopperSmallFoot-v0", "HopperBigFoot-v0", "HopperSmallLeg-v0", "HopperBigLeg-v0", "HopperBigTorso-v0"),
    "Hopper-v5",
)
"""The agent's own body first."""
EPISODES = 20
OUTPUT = Path(__file__).parents[1] / "results" / "authors_agent" / "returns.json"


def measure(path: Path) -> dict[str, object]:
    """Play the agent in a file: what it is, and its returns and lengths of every episode, by environment."""
    agent, arrays = mt.load_agent(path, layout=AUTHORS_A2C), read_torch_module(path)
    returns: dict[str, dict[str, dict[str, list[float]]]] = {}
    for env in ENVS:
        returns[env] = {}
        for kind, deterministic in (("deterministic", True), ("sampled", False)):
            result = mt.evaluate_tasks(agent, env, EPISODES, deterministic, seed=0)[env]
            returns[env][kind] = {
                "returns": [round(float(one), 3) for one in result.episode_rewards],
                "lengths": list(result.episode_lengths),
            }
    return {
        "file": "src/trained_models/a2c/HopperSmallFoot-v0.pt",
        "repository": "https://github.com/jasonkrone/elen6885-final-project",
        "commit": "16a229f261de1b44e1cbc041b70f6d95d834a373",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "frames_of_filter": round(float(arrays["obs_filter.count"][0])),
        "stds": np.exp(arrays["dist.logstd._bias"].ravel()).round(4).tolist(),
        "seed": 0,
        "episodes": returns,
    }


def table(measured: dict[str, object]) -> str:
    """A row for each environment: mean ± standard deviation of the returns."""
    lines = ["| environment | deterministic | sampled |", "|---|---|---|"]
    for env, kinds in measured["episodes"].items():  # type: ignore[attr-defined]
        cells = [f"{np.mean(of['returns']):.0f} ± {np.std(of['returns']):.0f}" for of in kinds.values()]
        lines.append(f"| {env} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "file", type=Path, nargs="?", help="HopperSmallFoot-v0.pt; without it the table is printed again"
    )
    path = parser.parse_args().file
    if path is not None:
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        OUTPUT.write_text(json.dumps(measure(path), indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(OUTPUT.read_text(encoding="utf-8"))))
