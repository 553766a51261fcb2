"""Vision transformers in JAX and Flax linen: train them, open them, use them.

    import vitjax
    model = vitjax.load("runs/navit/best")
    for result in model.predict(["cat.jpg", "photos/"]):
        print(result.top1.label, result.top1.score)

The names below are imported when they are first used, so that `import vitjax` takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from ml_collections import ConfigDict

    from vitjax.inference.bundle import create_model, load
    from vitjax.models import list_models

    __version__: str

__all__ = ["__version__", "create_model", "list_models", "load", "train"]

_HOMES = {
    "create_model": "vitjax.inference.bundle",
    "list_models": "vitjax.models",
    "load": "vitjax.inference.bundle",
}


def train(config: "str | Path | ConfigDict", **overrides: Any) -> Any:
    """Trains as `python train.py --config FILE` does.

    Args:
        config: path of a config file, or the config itself, which stays as it is.
        **overrides: settings to replace; deeper ones as `**{"optimizer.lr": 1e-3}`.

    Returns:
        The run's `RunSummary`, or what the config's `program` returns.

    Raises:
        UserError: the config does not exist, or a setting does not fit it.
    """
    from os import PathLike

    from vitjax.config import load_config_file, override
    from vitjax.training.program import run_config

    if isinstance(config, str | PathLike):
        config = load_config_file(config)
    config = config.copy_and_resolve_references()
    for name, value in overrides.items():
        override(config, name, value)
    return run_config(config)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("vitjax")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
