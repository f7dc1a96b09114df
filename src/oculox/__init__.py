"""Oculox: YOLOX for everyone."""

__version__ = "0.1.0"
