"""Steps of vectorized environments."""

import numpy as np


def step_on(env, n_steps):
    """Steps with actions of 0, which nobody looks at."""
    for _ in range(n_steps):
        env.step(np.zeros((env.num_envs, *env.action_space.shape)))


def raw_steps(env, n_steps, seed=0, scale=1):
    """What the backend gives before monitoring and float32: resets, then steps with random actions."""
    rows, backend = slice(0, env.num_envs), env.sub_envs.backend
    yield backend.reset(rows, [seed + i for i in range(env.num_envs)], [{}] * env.num_envs)
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        backend.send(rows, rng.uniform(-scale, scale, (env.num_envs, *env.action_space.shape)).astype(np.float32))
        yield backend.receive(rows)
