"""Weight files, Oculox's own and other projects'."""

from oculox.weights.bundle import Weights, build_network
from oculox.weights.load import load_weights

__all__ = ["Weights", "build_network", "load_weights"]
