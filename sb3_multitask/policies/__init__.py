"""The policy: a shared trunk, a head per task."""

from sb3_multitask.policies.policy import MultiTaskActorCriticPolicy
from sb3_multitask.policies.trunk import SharedMlpExtractor

__all__ = ["MultiTaskActorCriticPolicy", "SharedMlpExtractor"]
