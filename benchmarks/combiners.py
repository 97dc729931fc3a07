"""What a gradient combiner adds to an update: of the fast engine, and beside TorchJD's autograd on the same nets.

Six HalfCheetah bodies. An update is the gradient of one batch and a step of the optimizer; medians of interleaved
repeats, in microseconds. ``python benchmarks/combiners.py``
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

import sb3_multitask as mt
from sb3_multitask.algorithms.engine import TorchEngine
from sb3_multitask.algorithms.gradient_combiner import begun_combining
from sb3_multitask.losses import A2CLoss, Outputs, PPOLoss
from sb3_multitask.policies.task_steps import shared_parameters
from sb3_multitask.process.threads import threads_for_arrays

REPEATS = 300
SIZES = [("A2C, 120 rows", 5, None), ("PPO, minibatches of 64", 64, 64), ("PPO, minibatches of 256", 64, 256)]
COMBINERS: list[Any] = [None, "mean", "pcgrad", "measured"]


class OneRollout(BaseCallback):
    """Leaves a rollout without its update."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.model.train = lambda: None  # type: ignore[method-assign]


def with_rollout(n_steps: int, batch_size: int | None) -> tuple[Any, Any]:
    """A model with a rollout, and its loss."""
    env = mt.make_multitask_vec_env("HalfCheetahBody6", 4, seed=0)
    if batch_size is None:
        model: Any = mt.A2CMultiTask("MultiTaskMlpPolicy", env, n_steps=n_steps, seed=0)
    else:
        model = mt.PPOMultiTask("MultiTaskMlpPolicy", env, n_steps=n_steps, batch_size=batch_size, seed=0)
    model.learn(1, OneRollout(), log_interval=None)
    return model, A2CLoss() if batch_size is None else PPOLoss()


def combining_of(model: Any, name: str | None) -> Any:
    """What combines by a name; "measured" measures every batch."""
    model.gradient_combiner = None if name == "measured" else name
    model.conflict_freq = int(name == "measured")
    return begun_combining(model, None)


def fast_update(model: Any, loss: Any, batch_size: int | None, name: str | None) -> Callable[[], None]:
    """An update by the fast engine."""
    combining, batches = combining_of(model, name), iter(())

    def update() -> None:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(list(model.numerics.batches(model.rollout_buffer, batch_size, normalize_advantage=False)))
            batch = next(batches)
        model.combining = combining
        if name == "measured":
            combining.measure_next(model.num_timesteps)
        model.numerics.evaluate([loss], batch)
        model.numerics.step(0.5)

    return update


def torchjd_update(model: Any, loss: Any, batch_size: int | None) -> Callable[[], None]:
    """An update by torch and TorchJD: the Jacobian of the losses by autograd, PCGrad, and the gradient of the heads."""
    from torchjd.aggregation import PCGrad
    from torchjd.autojac import backward, jac_to_grad

    model.combining = None
    batch = next(iter(TorchEngine(model).batches(model.rollout_buffer, batch_size, normalize_advantage=False)))
    policy = model.policy
    shared, aggregators = shared_parameters(policy), {"actor": PCGrad(), "critic": PCGrad()}
    every = [parameter for net in shared.values() for parameter in net]
    own = [p for p in policy.parameters() if not any(p is other for other in every)]

    def update() -> None:
        values, log_prob, entropy = policy.evaluate_actions(batch.observations, batch.actions)
        outputs = Outputs(values.flatten(), log_prob, entropy, policy.action_dist.distribution)
        rows, task = loss.rows(batch, outputs), batch.observations["task"].long().flatten()
        policy.optimizer.zero_grad()
        losses = []
        for number in range(policy.n_tasks):
            own_rows = (task == number).float()
            losses.append(loss.weighted(type(rows)(*((own_rows * row).mean() for row in rows))))
        sum(losses).backward(inputs=own, retain_graph=True)
        backward(losses, inputs=every)
        for net, parameters in shared.items():
            jac_to_grad(parameters, aggregators[net])
        policy.optimizer.step()

    return update


def medians(updates: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Microseconds of each, repeated in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for repeat in range(REPEATS + 20):
        for name, update in updates.items():
            start = time.perf_counter()
            update()
            if repeat >= 20:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(of_one) for name, of_one in seconds.items()}


def main() -> None:
    """Print a table."""
    for title, n_steps, batch_size in SIZES:
        model, loss = with_rollout(n_steps, batch_size)
        updates = {str(name): fast_update(model, loss, batch_size, name) for name in COMBINERS}
        with threads_for_arrays(1):
            found = medians(updates)
        other, loss = with_rollout(n_steps, batch_size)
        try:
            update = torchjd_update(other, loss, batch_size)
        except ImportError:
            print("TorchJD is not installed: pip install sb3-multitask[combiners]")
        else:
            with threads_for_arrays(1):
                found |= medians({"TorchJD's autograd, PCGrad": update})
        plain = found["None"]
        for name, microseconds in found.items():
            print(f"{title}: {name}: {microseconds:.0f} us, {microseconds / plain:.2f} of an update without")


if __name__ == "__main__":
    main()
