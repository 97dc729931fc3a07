"""``python -m sb3_multitask.cli``, which is how a grid starts its runs."""

from sb3_multitask.cli import main

main()
