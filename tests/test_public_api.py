"""The names that `import vitjax` offers, and what they cost."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
from ml_collections import ConfigDict

import vitjax
from vitjax.errors import UserError


def test_import_brings_no_jax_and_all_names():
    program = (
        "import sys, json, vitjax\n"
        "slow = sorted({'jax', 'flax', 'numpy', 'orbax', 'grain', 'matplotlib'} & set(sys.modules))\n"
        "print(json.dumps([slow, sorted(set(vitjax.__all__) - set(dir(vitjax))), vitjax.__version__]))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    slow, missing, version = json.loads(result.stdout)
    assert slow == []
    assert missing == []
    assert version.count(".") >= 2


@pytest.mark.parametrize("name", vitjax.__all__)
def test_every_public_name_is_there(name):
    assert getattr(vitjax, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'vitjax' has no attribute 'lode'"):
        _ = vitjax.lode


def test_models_are_listed_by_pattern():
    names = vitjax.list_models("*vit_tiny*")
    assert "vit_tiny_patch16_224" in names
    assert all("vit_tiny" in name for name in names)
    assert names == sorted(names)


def test_an_unknown_model_is_one_line():
    with pytest.raises(UserError, match="there is no model 'vit_tinny_patch16_224'; did you mean vit_tiny_patch16_224"):
        vitjax.create_model("vit_tinny_patch16_224")
    with pytest.raises(UserError, match="no keyword `num_clases`; did you mean `num_classes`"):
        vitjax.create_model("vit_tiny_patch16_224", num_clases=3)


@dataclass(frozen=True)
class Summary:
    config: ConfigDict


CONFIG = """\
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"seed": 0, "optimizer": {"lr": 0.1}})
"""


def test_train_applies_overrides_to_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr("vitjax.training.program.fit", Summary)
    (tmp_path / "tiny.py").write_text(CONFIG)
    config = vitjax.train(tmp_path / "tiny.py", seed=3, **{"optimizer.lr": 0.5}).config
    assert (config.seed, config.optimizer.lr) == (3, 0.5)
    again = vitjax.train(config, seed=4).config
    assert (config.seed, again.seed, again.optimizer.lr) == (3, 4, 0.5)
    with pytest.raises(UserError, match=r"`optimizer\.rl`: `config\.optimizer` has no setting `rl`"):
        vitjax.train(str(tmp_path / "tiny.py"), **{"optimizer.rl": 0.5})
