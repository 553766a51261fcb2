"""The cases of every model's file, in the order of the README's table."""

from benchmarks.parity_cases import NAVIT_CASES, VIT_CASES
from benchmarks.parity_cases_deepvit import DEEPVIT_CASES
from benchmarks.parity_cases_flexivit import FLEXIVIT_CASES
from benchmarks.parity_cases_hybrid import HYBRID_CASES
from benchmarks.parity_cases_memory_vit import MEMORY_VIT_CASES

__all__ = ["CASES"]

CASES = VIT_CASES | HYBRID_CASES | FLEXIVIT_CASES | DEEPVIT_CASES | MEMORY_VIT_CASES | NAVIT_CASES
