"""Hypothesis strategies for capabilities and what is asked of them.

Small alphabets on purpose: chains, targets and caveats must meet often enough to matter.
"""

from __future__ import annotations

from hypothesis import strategies as st

from edgistry import caveats as cv
from edgistry.blocks import ChildEntry, child_block
from edgistry.capability import Capability
from edgistry.capability_chain import Entry
from edgistry.caveats import Caveat
from edgistry.envelope import Operation
from edgistry.errors import Refused
from edgistry.judge import NEWEST, Question
from edgistry.rights import ALL_RIGHTS

from .grants import ISSUER, ME, NOW, YOU

OBJECTS = ["", "a", "b", "a/b", "a/c", "b/b"]
NARROWS = ["", "", "", "a", "b", "c", "a/b"]
HANDLERS = ["h", "i", "j"]
RIGHTS = st.one_of(st.just(ALL_RIGHTS), st.integers(0, ALL_RIGHTS))


def caveats() -> st.SearchStrategy[Caveat]:
    return st.one_of(
        st.integers(NOW - 2, NOW + 2).map(cv.not_after),
        st.integers(NOW - 2, NOW + 2).map(cv.not_before),
        st.sampled_from([ME, YOU]).map(cv.client),
        st.sampled_from(HANDLERS).map(cv.handler),
        st.integers(0, 16).map(cv.max_payload),
        st.just(cv.require(bytes(16))),
        st.just(cv.lineage(bytes(16))),
        st.just(cv.VEIL),
        st.just(cv.SEALED),
        st.just(Caveat(0x07, b"note")),
    )


FEW_CAVEATS: st.SearchStrategy[list[Caveat]] = st.one_of(
    st.just([]), st.lists(caveats(), max_size=3)
)


@st.composite
def chains(draw: st.DrawFn, max_blocks: int = 5) -> Capability:
    """Well-formed capabilities of ``ISSUER``, some of which nothing can satisfy."""
    roots = st.builds(Entry, rights=RIGHTS, object=st.sampled_from(OBJECTS))
    entries = draw(st.lists(roots, min_size=1, max_size=3))
    capability = ISSUER.mint(
        serial=draw(st.integers(1, 3)), entries=entries, caveats=draw(FEW_CAVEATS)
    )
    for _ in range(draw(st.integers(0, max_blocks - 1))):
        capability = draw(children(capability))
    return capability


@st.composite
def children(draw: st.DrawFn, capability: Capability) -> Capability:
    """A capability with one more block below ``capability``; itself where that cannot be."""
    above = capability.entries
    entries = []
    for _ in range(draw(st.integers(1, 3))):
        parent = draw(st.integers(0, len(above) - 1))
        rights = above[parent].rights & draw(RIGHTS)
        entries.append(ChildEntry(parent, rights, draw(st.sampled_from(NARROWS))))
    block = child_block(entries, draw(FEW_CAVEATS))
    try:
        return capability.extended(block)
    except Refused:
        return capability


@st.composite
def questions(draw: st.DrawFn) -> Question:
    return Question(
        op=int(draw(st.sampled_from(Operation))),
        target=draw(st.sampled_from(OBJECTS)),
        handler=draw(st.sampled_from(["", *HANDLERS])),
        client=draw(st.sampled_from([ME, YOU])),
        payload=draw(st.sampled_from([b"", b"1234", NEWEST, bytes(12)])),
    )
