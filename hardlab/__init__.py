"""hardlab: which examples are hard for a self-supervised model, and does training on them help?"""

from typing import Any

__version__ = "0.1.0"

_DOORS = {
    "recipe": "hardlab.recipes:recipe",
    "train": "hardlab.train",
    "load": "hardlab.pretrained:load",
    "load_code": "hardlab.build:load",
    "explore": "hardlab.workbook.explorer:explore",
}


def __getattr__(name: str) -> Any:
    """What ``_DOORS`` names is loaded when it is first asked for."""
    if name not in _DOORS:
        raise AttributeError(f"module 'hardlab' has no attribute '{name}'")
    import importlib

    module, _, attribute = _DOORS[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded
