"""The process that renders and plays a film: ``python -m sb3_multitask.evaluation.films.worker``.

It reads a scene from its standard input, and writes its shots, or a text with the error, to its standard output.
"""

from __future__ import annotations

import os
import pickle
import sys

import gymnasium as gym

from sb3_multitask.evaluation.films.playing import play


def main() -> None:
    """Play the scene from the standard input; redirect what environments print to the standard error."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    specs, scene = pickle.load(sys.stdin.buffer)  # noqa: S301 (from the process that started this one)
    for spec in specs:
        gym.registry.setdefault(spec.id, spec)
    try:
        for shots in play(scene):
            pickle.dump(shots, output)
            output.flush()
    except BrokenPipeError:  # the reader has ended
        os._exit(0)
    except Exception as e:
        pickle.dump(f"{type(e).__name__}: {e}", output)
    output.close()


if __name__ == "__main__":
    main()
