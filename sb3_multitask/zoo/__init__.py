"""RL Baselines3 Zoo with multi-task agents: ``python -m sb3_multitask.zoo train|enjoy|record_video|...``.

The zoo's own programs run, with our algorithms registered and with an experiment manager that makes our VecEnv,
normaliser and evaluation; nothing of the zoo is copied or changed for good. Needs the extra ``zoo``. See
``docs/zoo.md``.

- ``__main__``: the commands, and what they put in the place of the zoo's parts while they run
- ``settings``: what stands in a config and on the command line, read without executing it
- ``manager``: training and tuning
- ``search``: what is tuned, and how a trial is evaluated
- ``study``: which trials can be compared, and so stand in one study
- ``playing``: the environment in which a trained agent is shown
- ``figures``: plots, saved

What a training left is read without rl_zoo3, in ``sb3_multitask.readers.zoo_folder``.
"""
