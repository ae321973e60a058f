"""The nodes that a device is paired with, as it keeps them.

Rules kept here:

* One file for each role, ``keys/primary.pairing`` and ``keys/fallback.pairing``: 0600, written
  whole. What an answer says is checked before it is kept: it is for this device and its epoch,
  comes from the node that was meant, and lets the device poll.
* A pairing of an earlier epoch is none: the node's key of the device is void. It is kept until the
  node was told, or could not be.

Not handled here: asking a node (``pair_link``), who holds the directory meanwhile (``cli_pair``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from edgistry.adapters.http import check_node_url
from edgistry.adapters.secret_files import read_secret, write_secret
from edgistry.capability import Capability
from edgistry.codec import Meta, Wire, decode, encode
from edgistry.envelope import Operation
from edgistry.errors import FileError, InvalidValueError, NotFoundError, Refused, WrongNodeKeyError
from edgistry.pairing import MAX_ANSWER_BYTES, PairingAnswer, check_device_id, device_object
from edgistry.transactions import NodeId, node_id_of

from .homes import Home

Role = Literal["primary", "fallback"]
ROLES: Final[tuple[Role, ...]] = ("primary", "fallback")

_MAX_BYTES: Final = MAX_ANSWER_BYTES + 4096


class _Stored(Wire):
    """What is in the file."""

    version: Annotated[int, Meta(ge=1, le=1)]
    url: Annotated[str, Meta(max_length=2048)]
    answer: PairingAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """A node that this device is paired with."""

    role: Role
    url: str
    """Where the node's HTTP API is, as the device reaches it."""
    answer: PairingAnswer = field(repr=False)

    @property
    def node_id(self) -> NodeId:
        """The node, whatever its address."""
        return node_id_of(self.answer.node_key)

    @property
    def capability(self) -> Capability:
        """Signed by the node: lets the device poll."""
        return Capability.from_bytes(self.answer.capability)

    @property
    def home(self) -> Home:
        """The node as a running agent needs it."""
        return Home(id=self.node_id, url=self.url, capability=self.capability)


def pairing_of(
    answer: PairingAnswer,
    *,
    role: Role,
    url: str,
    device: str,
    epoch: int,
    node_key: bytes | None = None,
) -> Pairing:
    """The pairing that ``answer`` makes with the node at ``url``.

    Raises:
        InvalidValueError: the answer is for another device or epoch, does not let it poll, or
            ``url`` is no address.
        WrongNodeKeyError: it comes from another node than the one with ``node_key``.
    """
    if answer.device != check_device_id(device):
        raise InvalidValueError("this answer is for another device")
    if answer.epoch != epoch:
        raise InvalidValueError(
            f"this answer is for epoch {answer.epoch} of the device's key, which is in {epoch};"
            " write a new pairing file"
        )
    if node_key is not None and answer.node_key != node_key:
        raise WrongNodeKeyError("the answer names another node than the code")
    pairing = Pairing(role=role, url=check_node_url(url), answer=answer)
    try:
        pairing.capability.check(
            Operation.EXCHANGE, device_object(device), client=bytes(8), now_us=answer.now_us
        )
    except Refused as error:
        raise InvalidValueError(f"the node's capability does not let it poll: {error}") from None
    return pairing


def pairing_file(root: Path, role: Role) -> Path:
    """Where the pairing with that role is kept in the agent's directory ``root``."""
    return root / "keys" / f"{role}.pairing"


def write_pairing(root: Path, pairing: Pairing) -> None:
    """Keep ``pairing`` in place of the one with its role.

    Raises:
        FileError: the file cannot be written; what was there is unchanged.
    """
    stored = _Stored(version=1, url=pairing.url, answer=pairing.answer)
    write_secret(pairing_file(root, pairing.role), encode(stored), force=True)


def read_pairing(root: Path, role: Role, *, epoch: int | None) -> Pairing | None:
    """The pairing with that role, if there is one of this ``epoch``; ``None`` for any.

    Raises:
        FileError: it cannot be read, or is damaged.
    """
    path = pairing_file(root, role)
    try:
        stored = decode(read_secret(path, limit=_MAX_BYTES), _Stored, limit=_MAX_BYTES)
        if epoch is not None and stored.answer.epoch != epoch:
            return None
        Capability.from_bytes(stored.answer.capability)
        return Pairing(role=role, url=check_node_url(stored.url), answer=stored.answer)
    except NotFoundError:
        return None
    except Refused as error:
        raise FileError(
            f"{path} is damaged ({error.detail}); `edgistry-agent unpair {root}`, then pair again"
        ) from None


def read_pairings(root: Path, *, epoch: int) -> list[Pairing]:
    """All pairings of this ``epoch``, the primary first; raises as ``read_pairing``."""
    found = (read_pairing(root, role, epoch=epoch) for role in ROLES)
    return [pairing for pairing in found if pairing is not None]


def forget_pairing(root: Path, role: Role) -> None:
    """Afterwards there is no pairing with that role.

    Raises:
        FileError: the file cannot be removed.
    """
    path = pairing_file(root, role)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot remove {path}: {error.strerror}") from None
