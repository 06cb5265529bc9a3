"""Names of timm's models with public weights."""

from __future__ import annotations

import difflib
from typing import Any

from defenses.registry import UnknownName


def timm_config(name: str) -> Any:
    """What timm knows of `timm:<name>`: architecture, normalisation, classes, repository on the hub.

    Raises:
        LookupError: timm does not know it, or has no weights for it on the hub.
    """
    import timm

    wanted = name.removeprefix("timm:")
    try:
        found = timm.models.get_pretrained_cfg(wanted)
    except RuntimeError:  # another tag
        found = None
    if found is None or not found.hf_hub_id or found.architecture is None:
        known = timm.list_pretrained()
        own = [other for other in known if other.split(".")[0] == wanted.split(".")[0]]
        near = own or difflib.get_close_matches(wanted, timm.list_models(), n=3, cutoff=0.6)
        guess = f" Did you mean {' or '.join(near[:3])}?" if near else ""
        raise UnknownName(f"Unknown model of timm {wanted!r}.{guess} timm.list_pretrained() lists them.")
    return found
