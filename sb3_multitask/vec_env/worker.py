"""The worker of ``backend="subproc"`` and ``"ray"``, which replies even if its environment raises."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from sb3_multitask.envs.flattening import flat_env
from sb3_multitask.envs.task_env import Description
from sb3_multitask.process.generators import global_states, seeded_globals, set_global_states
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.backends import EnvStep, Info, reset_env, step_and_reset
from sb3_multitask.vec_env.env_state import get_env_state, set_env_state, why_inexact
from sb3_multitask.vec_env.wrappers import wrappers_of

DONE, MISSING, REFUSED, RAISED = "done", "missing", "refused", "raised"
"""The kind of a reply, which is (kind, value).

DONE: the value that a command returned. MISSING: the environment has no attribute of that name. REFUSED: a user's call
raised, and the value is its traceback; the worker stays alive. RAISED: the environment failed.
"""
_USER_CALLS = ("call", "set_attr")


def work(remote: Connection, job: CloudpickleWrapper, copy: int, render_mode: str | None) -> None:
    """Answer commands, which are names of methods of :class:`Worker` with arguments, until "close".

    :param job: the task, and Gymnasium's specification of its environment, which may be registered in one process only
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    end_with_parent()
    task, spec = job.var
    worker = Worker(task, spec, copy, render_mode)
    while True:
        try:
            command, args = remote.recv()
        except (EOFError, ConnectionError):
            break
        if command == "close":
            break
        answer = worker.reply(command, args, ForkingPickler.dumps)
        try:
            remote.send_bytes(answer)
        except ConnectionError:
            break
    worker.close()


def end_with_parent() -> None:
    """End this process when its parent has died, even while the environment hangs."""
    parent = mp.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


class Worker:
    """One sub-environment, with a method for each command.

    :param task: task of the environment
    :param spec: Gymnasium's specification of it, which may be registered in another process only; ``None``: none
    :param copy: index of the copy of the task
    :param render_mode: as in ``gymnasium.make``
    """

    def __init__(self, task: Task, spec: Any, copy: int, render_mode: str | None) -> None:
        if spec is not None and spec.id not in gym.registry:
            gym.registry[spec.id] = spec
        self.task, self.copy, self.render_mode = task, copy, render_mode
        self.env: gym.Env[Any, Any] | None = None

    def reply(self, command: str, args: tuple[Any, ...], dumps: Callable[[Any], Any]) -> Any:
        """Carry out a command; return the pickled reply.

        :param command: name of another method
        :param dumps: function that pickles the reply
        """
        try:
            return dumps((DONE, getattr(self, command)(*args)))
        except AttributeError as e:
            kind = MISSING if command in ("get_attr", *_USER_CALLS) else RAISED
            return dumps((kind, str(e) if kind == MISSING else traceback.format_exc()))
        except Exception:  # an environment may raise anything, or return an object that cannot be pickled
            return dumps((REFUSED if command in _USER_CALLS else RAISED, traceback.format_exc()))

    def make(self, seed: int | None) -> Description:
        """Make the environment.

        :param seed: seed of the global generators meanwhile
        :return: the facts that the VecEnv needs
        """
        with seeded_globals(seed):
            self.env = flat_env(self.task.make(self.render_mode, copy=self.copy), self.task.name)
        return Description.of(self.task, self.env)

    @property
    def _made(self) -> gym.Env[Any, Any]:
        assert self.env is not None
        return self.env

    def reset(self, seed: int | None, options: Info | None) -> tuple[np.ndarray, Info]:
        return reset_env(self._made, seed, options)

    def step(self, action: np.ndarray) -> EnvStep:
        return step_and_reset(self._made, action)

    def get_attr(self, name: str) -> Any:
        return self._made.get_wrapper_attr(name)

    def set_attr(self, name: str, value: Any) -> None:
        self._made.set_wrapper_attr(name, value)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.get_attr(name)(*args, **kwargs)

    def is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        return any(isinstance(wrapper, wrapper_class) for wrapper in wrappers_of(self._made))

    def why_inexact(self) -> str | None:
        return why_inexact(self._made)

    def get_state(self) -> dict[str, Any]:
        return {**get_env_state(self._made), "globals": global_states()}  # some environments draw from them

    def set_state(self, state: dict[str, Any]) -> None:
        set_env_state(self._made, state)
        if "globals" in state:  # older checkpoints lack them
            set_global_states(state["globals"])

    def close(self) -> None:
        if self.env is not None:
            self.env.close()
