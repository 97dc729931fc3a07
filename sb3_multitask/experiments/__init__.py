"""Experiments: config -> run folder -> results."""
