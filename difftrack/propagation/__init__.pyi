from ._keypoint_accuracy import BADJA_THRESHOLD, JHMDB_THRESHOLDS, badja_scales, jhmdb_scales, pck
from ._labels import (
    KeypointLabels,
    MaskLabels,
    box_labels,
    boxes_of_labels,
    keypoint_labels,
    keypoints_of_labels,
    mask_labels,
    masks_of_labels,
)
from ._mask_measures import BOUND_TH, MaskScores, MeasureSummary, boundary_f, davis_scores, region_similarity, summarize
from ._params import FOR_SHIPPED, PropagationKind, PropagationParams
from ._propagate import DescriptorChunk, propagate_labels

__all__ = [
    "BADJA_THRESHOLD",
    "BOUND_TH",
    "FOR_SHIPPED",
    "JHMDB_THRESHOLDS",
    "DescriptorChunk",
    "KeypointLabels",
    "MaskLabels",
    "MaskScores",
    "MeasureSummary",
    "PropagationKind",
    "PropagationParams",
    "badja_scales",
    "boundary_f",
    "box_labels",
    "boxes_of_labels",
    "davis_scores",
    "jhmdb_scales",
    "keypoint_labels",
    "keypoints_of_labels",
    "mask_labels",
    "masks_of_labels",
    "pck",
    "propagate_labels",
    "region_similarity",
    "summarize",
]
