"""Evaluate agents on every task, while they train and afterwards; log, film and compare."""
