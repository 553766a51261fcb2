"""Configs: mistakes fail on the line that made them, and what is stored builds the same objects again."""

import functools
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import flax.linen as nn
import pytest
from ml_collections import ConfigDict

from vitjax.config import (
    build,
    describe,
    factory,
    from_json,
    load_config_file,
    override,
    parse_command_line,
    spec,
    to_json,
)
from vitjax.errors import UserError


@dataclass(frozen=True)
class Wheel:
    radius: float = 0.3
    spokes: int = 32


@dataclass(frozen=True)
class Bicycle:
    name: str
    front: Wheel
    rear: Wheel = field(default_factory=Wheel)
    gears: tuple[int, ...] = (3, 8)
    bell: object = None


def double(value: float, times: int = 2) -> float:
    return value * times


class Layer(nn.Module):
    width: int = 8
    activation: object = nn.gelu


def anything(**keywords):
    return keywords


@pytest.fixture
def bicycle():
    return spec(Bicycle, name="red", front=spec(Wheel, radius=0.5), bell=factory(double, times=3))


def test_spec_holds_the_target_and_every_plain_default(bicycle):
    assert bicycle.target == f"{__name__}:Bicycle"
    assert bicycle.front.to_dict() == {"target": f"{__name__}:Wheel", "radius": 0.5, "spokes": 32}
    assert bicycle.gears == (3, 8)
    assert "rear" not in bicycle  # made by the constructor


def test_build_makes_what_was_written_down(bicycle):
    built = build(bicycle)
    assert built.front == Wheel(0.5)
    assert built.rear == Wheel()
    assert built.bell(7) == 21
    assert isinstance(built.bell, functools.partial)


def test_specs_inside_tuples_lists_and_dicts_are_built():
    node = {"wheels": (spec(Wheel), [spec(Wheel, spokes=1)]), "rest": 3}
    assert build(node) == {"wheels": (Wheel(), [Wheel(spokes=1)]), "rest": 3}


def test_json_and_back_builds_the_same(bicycle):
    text = to_json(ConfigDict({"bicycle": bicycle, "pair": (spec(Wheel), spec(Wheel, spokes=3))}))
    again = from_json(text)
    assert again.bicycle.gears == (3, 8)
    assert build(again.pair) == (Wheel(), Wheel(spokes=3))
    one, other = build(again.bicycle), build(bicycle)
    assert (one.name, one.front, one.rear, one.gears) == (other.name, other.front, other.rear, other.gears)
    assert json.loads(text)["bicycle"]["front"]["radius"] == 0.5


def test_describe_is_the_way_back_from_build(bicycle):
    built = build(bicycle)
    again = build(describe(built))
    assert (again.name, again.front, again.gears, again.bell(7)) == ("red", Wheel(0.5), (3, 8), 21)
    layer = describe(Layer(width=4, name="given"))
    assert "name" not in layer
    assert "activation" not in layer  # the default, which the class has anyway
    assert build(layer) == Layer(width=4)
    assert build(describe((Wheel(spokes=5), {"a": 1}))) == (Wheel(spokes=5), {"a": 1})


def test_describe_refuses_what_cannot_be_stored():
    with pytest.raises(UserError, match="is a object, which cannot be stored"):
        describe(Bicycle(name="x", front=Wheel(), bell=object()))
    with pytest.raises(UserError, match="give its arguments by name"):
        describe(functools.partial(double, 2))


def test_a_misspelt_keyword_names_its_line_and_the_right_word():
    with pytest.raises(UserError) as caught:
        spec(Wheel, radios=3)
    line = caught.traceback[0].lineno + 1
    assert str(caught.value) == f"{__file__}:{line}: Wheel has no keyword `radios`; did you mean `radius`?"


def test_a_keyword_like_no_other_lists_those_there_are():
    with pytest.raises(UserError, match=r"Wheel has no keyword `zzz`; it takes `radius`, `spokes`$"):
        spec(Wheel, zzz=3)


def test_a_missing_keyword_is_named():
    with pytest.raises(UserError, match=r"test_config.py:\d+: Bicycle needs `front`$"):
        spec(Bicycle, name="red")


def test_linen_keeps_parent_and_name_to_itself_and_others_may_have_a_name():
    assert spec(Bicycle, name="red", front=spec(Wheel)).name == "red"
    with pytest.raises(UserError, match="Layer has no keyword `name`"):
        spec(Layer, name="block")


def test_a_callable_is_written_as_a_factory():
    with pytest.raises(
        UserError, match=r"`bell` of Bicycle is the callable .*; write factory\(double, \.\.\.\) instead"
    ):
        spec(Bicycle, name="red", front=spec(Wheel), bell=double)


def test_a_target_that_takes_any_keyword_is_not_checked():
    assert build(spec(anything, a=1, b="c")) == {"a": 1, "b": "c"}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tests.nothing:Wheel", "cannot be imported"),
        ("os:nothing", "cannot be imported"),
        ("os:linesep", "is a str; expected a class or function"),
        ("builtins:dict", "does not say which keywords it takes"),
    ],
)
def test_targets_that_are_not_there_are_one_line(target, message):
    with pytest.raises(UserError, match=message):
        build({"target": target})


def test_only_the_named_packages_are_built():
    assert build({"target": "vitjax.paths:unflatten", "leaves": {}}, packages=("vitjax",)) == {}
    with pytest.raises(UserError, match="lies outside vitjax"):
        build({"nested": ({"target": "os:getcwd"},)}, packages=("vitjax",))
    with pytest.raises(UserError, match="lies outside vitjax"):
        build({"target": "vitjaxx.paths:flatten"}, packages=("vitjax",))


def test_a_stored_keyword_that_no_longer_exists_names_no_line_of_ours():
    with pytest.raises(UserError, match=r"^Wheel has no keyword `tyres`"):
        build({"target": f"{__name__}:Wheel", "tyres": 2})


CONFIG = """\
from ml_collections import ConfigDict
from vitjax.config import spec
from vitjax.ops.losses import SoftmaxCrossEntropy
from vitjax.tasks.classification import Classification

def get_config():
    config = ConfigDict()
    config.seed = 0
    config.lr = 0.1
    config.names = ("a", "b")
    config.flag = False
    config.decay = None
    config.task = spec(
        Classification,
        criterion=spec(SoftmaxCrossEntropy, label_smoothing=0.1),
    )
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def test_overrides_take_the_type_of_what_they_replace(config_file):
    config = load_config_file(
        config_file,
        [
            "seed=3",
            "lr=1e-3",
            'names=["x", "y", "z"]',
            "flag=true",
            "decay=0.5",
            "task.criterion.label_smoothing=0",
            "task.mean=(0.1, 0.2, 0.3)",
        ],
    )
    assert (config.seed, config.lr, config.names, config.flag, config.decay) == (3, 1e-3, ("x", "y", "z"), True, 0.5)
    task = build(config.task)
    assert task.criterion.label_smoothing == 0.0
    assert task.mean == (0.1, 0.2, 0.3)
    assert load_config_file(config_file, ["lr=none"]).lr is None


def test_a_loaded_config_takes_no_new_names(config_file):
    config = load_config_file(config_file)
    with pytest.raises(AttributeError):
        config.sead = 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead=1", "--config.sead: `config` has no setting `sead`; did you mean `seed`?"),
        ("task.criterion.smooth=1", "`config.task.criterion` has no setting `smooth`; it has"),
        ("seed.deep=1", "`config.seed` has no setting `deep`; it has no settings of its own"),
        ("seed=many", "--config.seed=many: expected int such as 0"),
        ("lr=high", "--config.lr=high: expected float such as 0.1"),
        ("flag=perhaps", "--config.flag=perhaps: expected bool such as False: true or false"),
        ("names=1", "--config.names=1: expected tuple such as ('a', 'b')"),
        ("names=(1", "--config.names=(1: expected tuple such as ('a', 'b')"),
        ("task=1", "--config.task is a group of settings; set one of them, such as task."),
        ("seed", "--config.seed: write --config.seed=VALUE"),
    ],
)
def test_a_wrong_override_is_one_line(config_file, text, message):
    with pytest.raises(UserError) as caught:
        load_config_file(config_file, [text])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_override_sets_values_and_refuses_other_types(config_file):
    config = load_config_file(config_file)
    override(config, "task.criterion.label_smoothing", 0.3)
    override(config, "names", ("q",))
    override(config, "lr", None)
    assert (config.task.criterion.label_smoothing, config.names, config.lr) == (0.3, ("q",), None)
    with pytest.raises(UserError, match="`names`=3: expected tuple"):
        override(config, "names", 3)
    with pytest.raises(UserError, match=r"`sead`: `config` has no setting `sead`; did you mean `seed`\?"):
        override(config, "sead", 3)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("criterion=", "criterium=", 13, "Classification has no keyword `criterium`; did you mean `criterion`?"),
        (
            "label_smoothing=",
            "label_smothing=",
            15,
            "SoftmaxCrossEntropy has no keyword `label_smothing`; did you mean `label_smoothing`?",
        ),
        ("config.seed = 0", "config.seed = 1 / 0", 8, "ZeroDivisionError: division by zero"),
        ("config.seed = 0", "config.seed = nothing", 8, "NameError: name 'nothing' is not defined"),
    ],
)
def test_a_mistake_in_a_config_file_names_its_line(config_file, old, new, line, message):
    config_file.write_text(CONFIG.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_config_file(config_file)
    assert str(caught.value) == f"{config_file}:{line}: {message}"


def test_the_line_is_the_same_without_the_checks_of_the_tests(config_file):
    # The tests wrap every function of the package; a person runs it bare.
    config_file.write_text(CONFIG.replace("label_smoothing=", "label_smothing="))
    program = f"import vitjax.config\nvitjax.config.load_config_file({str(config_file)!r})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    expected = f"UserError: {config_file}:15: SoftmaxCrossEntropy has no keyword `label_smothing`"
    assert expected in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "tiny.py: SyntaxError"),
        ("x = 1\n", "a config file defines get_config(), which returns a ConfigDict"),
        ("def get_config():\n    return 3\n", "get_config() returned a int; expected a ConfigDict"),
        ("import no_such_module\n", "tiny.py:1: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(config_file, text, message):
    config_file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config_file(config_file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_lists_the_configs_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--config=x.py: no such file; give a path"):
        load_config_file("x.py")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "vit.py").touch()
    with pytest.raises(UserError, match=r"no such file; there are configs/vit.py"):
        load_config_file(Path("x.py"))


def test_the_command_line_is_split_into_config_and_flags(config_file):
    config, flags = parse_command_line(
        [
            "--config",
            str(config_file),
            "--config.seed=7",
            "--config.flag",
            "--allocator=system",
            "--no_cache",
            "--n",
            "2",
        ]
    )
    assert (config.seed, config.flag) == (7, True)
    assert flags == {"allocator": "system", "no_cache": "true", "n": "2"}
    assert parse_command_line([f"--config={config_file}", "--config.lr", "-1"])[0].lr == -1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "no --config given"), (["train"], "'train': expected a flag"), (["--config.seed=1"], "no --config given")],
)
def test_a_command_line_without_config_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_command_line(arguments)
