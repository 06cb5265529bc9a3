"""The mathematics that the diffusion defenses share."""

from defenses.diffusion.scan import scan
from defenses.diffusion.schedule import VPSchedule, clip, to_image_space, to_model_space

__all__ = ["VPSchedule", "clip", "scan", "to_image_space", "to_model_space"]
