"""The node as an issuer: whose secret its capabilities start from.

Rules kept here: the secret is in a file of its own, outside of everything that a WooF shows; it is
made once and never replaced by this program.

Not handled here: verifying requests (``edgistry.authority``), who may ask for a capability.
"""

from __future__ import annotations

from edgistry.adapters.log import get_logger
from edgistry.authority import Authority
from edgistry.kv import KeyValue

from .directory import NodeDirectory, read_issuer_secret

logger = get_logger("edgistry.node.issuing")


def open_authority(directory: NodeDirectory, store: KeyValue) -> Authority:
    """The authority of the node in ``directory``, which remembers in ``store``.

    Raises:
        DirectoryError: the secret is unreadable, damaged, or open to others.
    """
    secret, is_new = read_issuer_secret(directory)
    if is_new:
        logger.warning(
            "a new issuer key was made; capabilities signed by an earlier one are void",
            path=str(directory.issuer_key_file),
        )
    return Authority.from_secret(store, secret)
