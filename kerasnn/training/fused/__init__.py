"""Runs of one shape, trained as one network: one program steps all of them, each as it would step alone."""

from kerasnn.training.fused.groups import train_fused
from kerasnn.training.fused.member import Member, MemberState
from kerasnn.training.fused.template import program_key, why_not

__all__ = ["Member", "MemberState", "program_key", "train_fused", "why_not"]
