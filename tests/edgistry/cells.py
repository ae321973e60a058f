"""Strategies for places and cells, with the awkward ones well represented."""

from __future__ import annotations

import h3.api.basic_int as h3
from hypothesis import strategies as st

LATITUDES = st.floats(-90, 90)
LONGITUDES = st.floats(-180, 180)

PENTAGON_CENTERS = [h3.cell_to_latlng(cell) for cell in h3.get_pentagons(0)]

AWKWARD_PLACES = [
    (90.0, 0.0),
    (-90.0, 0.0),
    (89.97, 120.0),
    (-89.97, -60.0),
    (0.0, 180.0),
    (0.0, -180.0),
    (-17.0, 179.999),
    (65.0, -179.98),
    *PENTAGON_CENTERS,
]

PLACES = st.tuples(LATITUDES, LONGITUDES) | st.sampled_from(AWKWARD_PLACES)


@st.composite
def cells(draw: st.DrawFn, *, coarsest: int = 0, finest: int = 15) -> int:
    """A valid cell; often one of a pentagon's descendants."""
    resolution = draw(st.integers(coarsest, finest))
    cell: int = h3.latlng_to_cell(*draw(PLACES), resolution)
    return cell


@st.composite
def cell_sets(draw: st.DrawFn, *, finest: int = 7) -> list[int]:
    """Some cells of mixed resolutions in one neighbourhood, so that siblings and ancestors meet."""
    root = draw(cells(coarsest=1, finest=4))
    chosen = []
    for _ in range(draw(st.integers(0, 12))):
        cell = root
        for _ in range(draw(st.integers(0, finest - h3.get_resolution(root)))):
            children = h3.cell_to_children(cell)
            # The ends of a family are where ranges merge or must not.
            cell = children[draw(st.sampled_from([0, 0, 1, 2, -2, -1]))]
        chosen.append(cell)
        if draw(st.booleans()) and h3.get_resolution(cell) > 0:
            chosen += h3.cell_to_children(h3.cell_to_parent(cell))
    return chosen
