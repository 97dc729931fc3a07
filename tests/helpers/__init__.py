"""What more than one test file uses, by concept.

Modules that tests name in texts and files (``own_envs:Own/Arm-v0``) stand beside ``conftest.py``.
"""
