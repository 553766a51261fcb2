"""What a config asks for: one run of the trainer, or a program that makes several."""

from typing import Any

from ml_collections import ConfigDict

from vitjax.config import build
from vitjax.training.fit import fit

__all__ = ["run_config"]


def run_config(config: ConfigDict) -> Any:
    """Calls the config's `program` with the config, or `fit` where there is none.

    A program is a callable `(config) -> summary`, named by `factory(...)`; the config that it gets lacks `program`.
    It calls `fit` for each of its runs, in folders of their own below `config.workdir`, so that each resumes by itself;
    its summary has `interrupted` set where one of them was.
    """
    if config.get("program") is None:
        return fit(config)
    config = config.copy_and_resolve_references()
    program = build(config.program)
    with config.unlocked():
        del config["program"]
    return program(config)
