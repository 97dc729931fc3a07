"""Trained agents, their files, and their exports."""

from sb3_multitask.agents.agent import Agent, agent_of, normalizer_state_of

__all__ = ["Agent", "agent_of", "normalizer_state_of"]
