"""Trained agents, their files, and their exports."""

from sb3_multitask.agents.agent import Agent, agent_of, normalizer_state_of
from sb3_multitask.agents.shared import SHARED, shared_agent

__all__ = ["SHARED", "Agent", "agent_of", "normalizer_state_of", "shared_agent"]
