"""``DetectorConfig``: what a RetinaNet is made of and fitted by, the section ``detector`` of a job."""

from __future__ import annotations

from dataclasses import dataclass

from beam_vision.training.config_fields import setting


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """``detector``: of task ``detect`` alone. The focal loss has its numbers in ``loss``.

    Attributes:
      anchor_size: the smallest anchor of a level, in cells of it; 4 in the paper; null: the one that meets
        most boxes of the train split.
      max_level: the last level of the pyramid; null: the last one whose anchors fit in the image.
      head_layers: convolutions of each head before its last one; 4 in the paper.
      head_norm: group normalisation in the heads; steadier from random weights, and slower.
      smooth_l1_beta: offsets that are wrong by less count by their square, others by their size.
      box_weight: of the boxes' loss against that of the classes.
      nms_iou: at export: of two boxes of one class that overlap more, the one with the higher score stays.
      least_score: at export: what has less is no detection.
      most_detections: at export: of an image, those with the highest scores.
    """

    anchor_size: float | None = setting(None, least=0.5, most=16)
    max_level: int | None = setting(None, least=5, most=7)
    head_layers: int = setting(4, least=1, most=8)
    head_norm: bool = False
    smooth_l1_beta: float = setting(1 / 9, above=0)
    box_weight: float = setting(1.0, least=0)
    nms_iou: float = setting(0.5, least=0, most=1)
    least_score: float = setting(0.05, least=0, most=1)
    most_detections: int = setting(100, least=1, most=10_000)
