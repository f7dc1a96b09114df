"""Weight files, Oculox's own and other projects'.

Imported when first used: the catalogue in this room is for commands that need no PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oculox.weights.bundle import Weights, build_network
    from oculox.weights.load import load_weights

__all__ = ["Weights", "build_network", "load_weights"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'oculox.weights' has no attribute {name!r}")
    from oculox.weights import bundle, load

    return getattr(load if name == "load_weights" else bundle, name)
