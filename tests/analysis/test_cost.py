"""The cost report against published tables, to the printed digit; only shapes are traced, nothing is computed."""

import flax.linen as nn
import jax.numpy as jnp
import pytest

from vitjax.analysis.cost import cost_report
from vitjax.errors import UserError
from vitjax.layers.conv_norm import FoldedConv
from vitjax.layers.convolution import convolve
from vitjax.models import create_model

# Parameters with and without the head: the papers' sheets and timm's own count. GMACs and activations: timm's model
# cards and benchmark tables, `shared/papers/`.
TIMM = {
    "mobilevit_xxs": (1_272_024, "0.42", "8.34"),
    "mobilevit_xs": (2_317_848, "1.05", "16.33"),
    "mobilevit_s": (5_578_632, "2.03", "19.94"),
    "mobilevitv2_050": (1_370_593, "0.48", "8.04"),
    "mobilevitv2_075": (2_866_009, "1.05", "12.06"),
    "mobilevitv2_100": (4_901_841, "1.84", "16.08"),
    "mobilevitv2_125": (7_478_089, "2.86", "20.10"),
    "mobilevitv2_150": (10_594_753, "4.09", "24.11"),
    "mobilevitv2_175": (14_251_833, "5.54", "28.13"),
    "mobilevitv2_200": (18_449_329, "7.22", "32.15"),
    "mobilevitv2_150_384": (10_594_753, "9.20", "54.25"),
    "resnet50": (25_557_032, "4.11", "11.11"),
    "vit_base_patch16_224": (86_567_656, "17.58", "23.90"),
}

# README of EfficientViT's authors: FLOPs in millions; parameters with and without head.
EFFICIENTVIT = {
    "efficientvit_m0": (2_349_436, 2_156_052, "79"),
    "efficientvit_m1": (2_980_560, 2_787_176, "167"),
    "efficientvit_m2": (4_187_554, 3_962_106, "201"),
    "efficientvit_m3": (6_900_722, 6_579_082, "263"),
    "efficientvit_m4": (8_804_228, 8_418_460, "299"),
    "efficientvit_m5": (12_473_772, 12_088_004, "522"),
}


QUICK = ("mobilevit_xxs", "mobilevitv2_175", "resnet50", "vit_base_patch16_224", "efficientvit_m0")


def rows(table):
    return [
        pytest.param(name, published, id=name, marks=[] if name in QUICK else [pytest.mark.long])
        for name, published in table.items()
    ]


@pytest.mark.parametrize(("name", "published"), rows(TIMM))
def test_what_timm_publishes(name, published):
    report = cost_report(create_model(name))
    found = report.parameters, f"{report.timm_macs / 1e9:.2f}", f"{report.total.activations / 1e6:.2f}"
    assert found == published


@pytest.mark.parametrize(("name", "published"), rows(EFFICIENTVIT))
def test_what_the_authors_of_efficientvit_publish(name, published):
    report = cost_report(create_model(name))
    assert (report.parameters, report.parameters_without_head, f"{report.macs / 1e6:.0f}") == published


@pytest.mark.long
def test_a_fused_model_has_no_norms_left():
    module = create_model("efficientvit_m0")
    fused = cost_report(module.clone(conv_norm=FoldedConv, fused=True))
    assert fused.total.norm_operations == 0
    assert f"{fused.timm_macs / 1e6:.0f}" == "79"
    assert fused.macs == cost_report(module).macs


def test_vit_without_attention_products_is_timms_other_number():
    report = cost_report(create_model("vit_base_patch16_224"))
    assert f"{(report.timm_macs - report.total.attention_macs) / 1e9:.2f}" == "16.87"
    assert report.total.attention_macs == 12 * 2 * 197 * 197 * 768
    assert report.under("block_3/mlp").macs == 2 * 197 * 768 * 3072
    assert report.under("head").parameters == 768 * 1000 + 1000


def test_the_parts_make_the_whole_and_the_table_says_them():
    report = cost_report(create_model("vit_tiny_patch16_224", depth=2), (96, 64))
    assert report.image_size == (96, 64)
    assert sum(cost.macs for cost in report.modules.values()) == report.macs
    assert sum(cost.parameters for cost in report.modules.values()) == report.parameters
    lines = report.table().splitlines()
    assert [line.split()[0] for line in lines[2:]] == [
        "(itself)", "patch_embedding", "position_embedding", "block_0", "block_1", "final_norm", "head", "all",
    ]  # fmt: skip
    shares = [float(line.split()[3].rstrip("%")) for line in lines[2:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    deeper = report.table(depth=2)
    assert "block_1/attention" in deeper
    assert f"{report.parameters:,} parameters" in str(report)


def test_packed_rows_and_two_parts_of_the_trunk():
    navit = create_model("navit_base_patch16", depth=1, width=32, num_heads=2, mlp_width=64, num_classes=3)
    report = cost_report(navit, 64)
    assert report.under("block_0/mlp").macs == 2 * 16 * 32 * 64
    with pytest.raises(UserError, match=r"`image_size` \(=\(50, 50\)\) must be divisible by `patch_size` \(=16\)"):
        cost_report(navit, 50)


def test_convolutions_count_alike_in_every_form_and_products_of_constants_not():
    class Mixed(nn.Module):
        image_size: int = 8

        @nn.compact
        def __call__(self, images, train=False):
            kernel = self.param("kernel", nn.initializers.ones_init(), (3, 3, 1, 3))
            depthwise = convolve(images, kernel, groups=3)
            weight = self.param("weight", nn.initializers.ones_init(), (3, 3))
            return jnp.ones((8, 8)) @ depthwise @ (weight @ weight)

    report = cost_report(Mixed())
    assert report.macs == 8 * 8 * 3 * 9 + 8 * 8 * 3 * 3
    with pytest.raises(UserError, match="expected a linen module or a bundle, not a str"):
        cost_report("vit")
