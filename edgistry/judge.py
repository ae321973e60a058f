"""Whether an authentic request is authorised: caveats, then rights.

Rules kept here:

* Every caveat of every block of the authorising (first) capability holds, and so do, recursively,
  those of the capabilities it requires: depth at most 4, no cycles.
* **One** entry of the authorising capability holds all rights that the operation needs, on an
  object that is or covers the target. Required capabilities add no rights.
* The reasons are exact. They are told only to holders of the capability: callers verify the tag
  first (``verifier.py``).

A client may ask the same question before it sends anything (``Capability.check``). Not handled
here: tags, revocation, replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from .capability_chain import Chain
from .caveats import NO_RARE, RareConditions
from .envelope import RIGHTS_NEEDED, Operation
from .errors import BadRequestError, CaveatError, NoRightError
from .rights import Right, names_of

MAX_REQUIRE_DEPTH: Final = 4
NEWEST: Final = bytes(8)
"""The payload of a Get of the newest element."""

_PUT: Final = int(Operation.PUT)
_GET: Final = int(Operation.GET)
_SEQUENCE_FIX: Final = int(Operation.SEQUENCE_FIX)
_INVOKE: Final = int(Right.INVOKE)
_NEEDED: Final = {int(operation): rights for operation, rights in RIGHTS_NEEDED.items()}


class Request(Protocol):
    """What caveats and rights look at; an ``Envelope`` is one."""

    @property
    def op(self) -> int: ...
    @property
    def target(self) -> str: ...
    @property
    def handler(self) -> str: ...
    @property
    def client(self) -> bytes: ...
    @property
    def payload(self) -> bytes: ...


class Question(NamedTuple):
    """A request that nobody has bound yet."""

    op: int
    target: str
    handler: str
    client: bytes
    payload: bytes


def judge(request: Request, chains: Sequence[Chain], *, now_us: int) -> None:
    """Pass if ``chains[0]``, with the others beside it, authorises ``request`` at ``now_us``.

    Raises:
        BadRequestError: unknown operation.
        CaveatError: a caveat does not hold.
        NoRightError: no entry holds all rights on this target.
    """
    op = request.op
    needed = _NEEDED.get(op)
    if needed is None:
        raise BadRequestError(f"unknown operation {op}")
    if op == _PUT and request.handler:
        needed |= _INVOKE
    chain = chains[0]
    _check_caveats(request, chain, now_us)
    if chain.rare.required:
        _check_required(request, chains, (0,), now_us)
    # A sequence fix reaches every grant of the issuer, so only the widest object will do.
    target = b"" if op == _SEQUENCE_FIX else request.target.encode()
    for rights, name in chain.granted:
        if not needed & ~rights and (name == target or not name or target.startswith(name + b"/")):
            return
    asked = " and ".join(names_of(needed))
    raise NoRightError(f"no entry allows {asked} on {target.decode() or 'everything'!r}")


def _check_caveats(request: Request, chain: Chain, now_us: int) -> None:
    """All caveats but ``require``."""
    if now_us > chain.not_after_us:
        raise CaveatError("the capability's time is over", caveat="not_after")
    for client in chain.clients:
        if client != request.client:
            raise CaveatError("the capability is for another client", caveat="client")
    limit = chain.max_payload
    if limit is not None and len(request.payload) > limit:
        raise CaveatError(f"the payload is longer than {limit} bytes", caveat="max_payload")
    if chain.rare is not NO_RARE:
        _check_rare_caveats(request, chain.rare, now_us)


def _check_rare_caveats(request: Request, rare: RareConditions, now_us: int) -> None:
    if now_us < rare.not_before_us:
        raise CaveatError("the capability's time has not come", caveat="not_before")
    if rare.handlers is not None and request.handler.encode() not in rare.handlers:
        raise CaveatError("the capability asks for another handler", caveat="handler")
    if rare.sealed_early:
        raise CaveatError("a block was added after the seal", caveat="sealed")
    if rare.veil and not _is_veiled(request):
        raise CaveatError(
            "only a put with a handler, or a get of the newest element", caveat="veil"
        )


def _is_veiled(request: Request) -> bool:
    if request.op == _PUT:
        return request.handler != ""
    return request.op == _GET and request.payload == NEWEST


def _check_required(
    request: Request, chains: Sequence[Chain], path: tuple[int, ...], now_us: int
) -> None:
    """Every capability that ``chains[path[-1]]`` requires is among the others and holds itself."""
    if len(path) > MAX_REQUIRE_DEPTH:
        raise CaveatError("capabilities require each other too deep", caveat="require")
    # Each other capability is looked into once, however many ids ask for it: the work is bounded
    # by the number of capabilities, not by the number of caveats.
    verdicts: dict[int, CaveatError | None] = {}
    for wanted in chains[path[-1]].rare.required:
        refusal: CaveatError | None = None
        for index, chain in enumerate(chains):
            if index in path or wanted not in chain.ids:
                continue
            if index not in verdicts:
                verdicts[index] = _required_refusal(request, chains, (*path, index), now_us)
            refusal = verdicts[index]
            if refusal is None:
                break
        else:
            why = f": {refusal.detail}" if refusal else ""
            raise CaveatError(
                f"requires {wanted.hex()} beside it, which is not there or does not hold{why}",
                caveat="require",
            )


def _required_refusal(
    request: Request, chains: Sequence[Chain], path: tuple[int, ...], now_us: int
) -> CaveatError | None:
    chain = chains[path[-1]]
    try:
        _check_caveats(request, chain, now_us)
        if chain.rare.required:
            _check_required(request, chains, path, now_us)
    except CaveatError as error:
        return error
    return None
