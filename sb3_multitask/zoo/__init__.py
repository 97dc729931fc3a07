"""RL Baselines3 Zoo with multi-task agents: ``python -m sb3_multitask.zoo train|enjoy|record_video|...``.

``train`` is rl_zoo3's own program, with our algorithms in its table and our experiment manager, which makes our VecEnv,
normaliser and evaluation. ``enjoy``, ``record_video`` and ``plot_train`` take the zoo's flags and run ``sb3-multitask
enjoy`` and ``plot``. Needs the extra ``zoo``. See ``docs/zoo.md``.

- ``__main__``: the commands, and ``train``
- ``settings``: configs and command lines, read without executing them
- ``manager``: training and tuning
- ``normalization``: the normaliser's statistics, beside a model or in its file
- ``search``: the search spaces
- ``trials``: how a trial is evaluated and pruned
- ``study``: which trials can be compared, and so belong to one study
- ``playing``: ``enjoy`` and ``record_video``, translated
- ``figures``: the plots, translated
- ``programs``: running a command of ours or a program of rl_zoo3

A trained folder is read without rl_zoo3, in ``sb3_multitask.readers.zoo_folder``.
"""
