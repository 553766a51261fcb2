import pytest

from vitjax.training.command_line import EXIT_USER_ERROR, main


@pytest.fixture(autouse=True)
def no_restart(monkeypatch):
    monkeypatch.setenv("VITJAX_ALLOCATOR", "system")


@pytest.mark.parametrize("arguments", [["--help"], ["--config", "x.py", "-h"]])
def test_usage(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "--config FILE" in shown
    assert "--allocator=system" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.py"], "--config=nowhere.py: no such file"),
        (["--steps=3"], "no --config given"),
        (["steps"], "expected a flag"),
        (["--config={config}", "--worker=3"], "unknown flag --worker"),
        (["--config={config}", "--num_processes=two"], "--num_processes=two: expected a whole number"),
        (["--config={config}"], "the config lacks `seed`, `workdir`"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tmp_path / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({'steps': 1})\n"
    )
    arguments = [argument.format(config=config) for argument in arguments]
    assert main([*arguments, "--no_compile_cache"]) == EXIT_USER_ERROR
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_no_arguments_are_a_mistake(capsys):
    assert main([]) == 2
    assert "--config FILE" in capsys.readouterr().err
