"""Trained agents: what they are, their files, and other forms of them."""

from sb3_multitask.agents.agent import Agent, agent_of, normalizer_state_of

__all__ = ["Agent", "agent_of", "normalizer_state_of"]
