"""Run an exported policy with onnxruntime, without sb3_multitask and without torch.

    sb3-multitask export --pretrained HalfCheetahBody6-vanilla --output cheetah.onnx
    python examples/run_onnx.py cheetah.onnx --task SmallFoot

Needs onnxruntime, numpy and gymnasium. The environment is Gymnasium's own HalfCheetah, so that nothing else is needed.
The body that the agent was trained on, with sb3_multitask installed: ``--env sb3_multitask:HalfCheetahSmallFoot-v0``.
"""

import argparse
import json

import gymnasium as gym
import numpy as np
import onnxruntime


def main() -> None:
    """Play episodes of one task and print their returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="file of `sb3-multitask export --format onnx`")
    parser.add_argument("--task", help="whose head acts; default: the first")
    parser.add_argument(
        "--env", default="HalfCheetah-v5", help="Gymnasium id, also <module>:<id> (default: %(default)s)"
    )
    parser.add_argument("--episodes", type=int, default=3, help="default: %(default)s")
    args = parser.parse_args()

    session = onnxruntime.InferenceSession(args.policy, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    task_names = json.loads(facts["task_names"])
    if args.task is not None and args.task not in task_names:
        parser.error(f"no task {args.task!r}; there are: {', '.join(task_names)}")
    task = np.array([task_names.index(args.task) if args.task else 0])  # (batch,) int64

    try:
        env = gym.make(args.env)
    except (gym.error.Error, ModuleNotFoundError) as e:
        parser.error(f"--env {args.env}: {e}")
    obs_dim, action_dim = (json.loads(facts[name])[task.item()] for name in ("obs_dims", "action_dims"))
    if env.observation_space.shape != (obs_dim,):
        parser.error(f"{args.env} has observations {env.observation_space.shape}, the policy ({obs_dim},)")
    padding = np.zeros(int(facts["obs_dim"]) - obs_dim)  # the policy takes observations of the widest task's size
    print(f"{args.env}, with the head of {task_names[task.item()]}")
    for episode in range(args.episodes):
        obs, _ = env.reset(seed=episode)
        total, done = 0.0, False
        while not done:
            padded = np.concatenate((obs, padding))[None].astype(facts["obs_dtype"])
            (action,) = session.run(None, {"obs": padded, "task": task})
            obs, reward, terminated, truncated, _ = env.step(action[0, :action_dim])
            total += float(reward)
            done = terminated or truncated
        print(f"episode {episode}: return {total:.1f}")
    env.close()


if __name__ == "__main__":
    main()
