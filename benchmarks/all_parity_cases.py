"""The cases of every model's file, in the order of the README's table."""

from benchmarks.parity_cases import NAVIT_CASES, VIT_CASES
from benchmarks.parity_cases_deeplab import DEEPLAB_CASES
from benchmarks.parity_cases_deepvit import DEEPVIT_CASES
from benchmarks.parity_cases_detr import DETR_CASES
from benchmarks.parity_cases_detr_losses import DETR_LOSS_CASES
from benchmarks.parity_cases_detr_panoptic import DETR_PANOPTIC_CASES
from benchmarks.parity_cases_efficientvit import EFFICIENTVIT_CASES, EFFICIENTVIT_VARIANTS
from benchmarks.parity_cases_flexivit import FLEXIVIT_CASES
from benchmarks.parity_cases_hybrid import HYBRID_CASES
from benchmarks.parity_cases_memory_vit import MEMORY_VIT_CASES
from benchmarks.parity_cases_mobilevit import MOBILEVIT_CASES, MOBILEVIT_VARIANTS
from benchmarks.parity_cases_mobilevit_v2 import MOBILEVIT_V2_CASES, MOBILEVIT_V2_VARIANTS
from benchmarks.parity_cases_naflex import NAFLEX_CASES
from benchmarks.parity_cases_resnet import RESNET_CASES
from benchmarks.parity_cases_ssdlite import SSDLITE_CASES

__all__ = ["CASES"]

CASES = (
    VIT_CASES
    | HYBRID_CASES
    | FLEXIVIT_CASES
    | DEEPVIT_CASES
    | MEMORY_VIT_CASES
    | NAVIT_CASES
    | NAFLEX_CASES
    | RESNET_CASES
    | MOBILEVIT_CASES
    | MOBILEVIT_VARIANTS
    | MOBILEVIT_V2_CASES
    | MOBILEVIT_V2_VARIANTS
    | DEEPLAB_CASES
    | SSDLITE_CASES
    | EFFICIENTVIT_CASES
    | EFFICIENTVIT_VARIANTS
    | DETR_CASES
    | DETR_PANOPTIC_CASES
    | DETR_LOSS_CASES
)
