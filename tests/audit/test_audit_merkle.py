"""The tree's hashes and proofs, held against known answers and against a naive reading of RFC 6962
§2.1.
"""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audit import merkle

# The leaves and hashes that certificate-transparency's reference implementations are tested with.
LEAVES = [bytes.fromhex(one) for one in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}  # fmt: skip
CONSISTENT = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def head(leaves: list[bytes]) -> bytes:
    """MTH(D[n]), word by word as RFC 6962 §2.1 has it."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + head(leaves[:k]) + head(leaves[k:])).digest()


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def reader(leaves: list[bytes]) -> merkle.NodeLookup:
    return lambda level, place: head(leaves[place << level : place + 1 << level])


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_known_ones(size: int) -> None:
    peaks = merkle.peaks_of([merkle.leaf_hash(leaf) for leaf in LEAVES[:size]])
    assert merkle.root(peaks).hex() == ROOTS[size]
    assert [peak.hex() for peak in peaks] == [
        reader(LEAVES)(level, place).hex() for level, place in merkle.peak_places(size)
    ]


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_inclusion_proofs_are_the_known_ones(index: int, size: int) -> None:
    path = merkle.inclusion(reader(LEAVES), index, size)
    assert [one.hex() for one in path] == PATHS[index, size]
    assert merkle.included(
        merkle.leaf_hash(LEAVES[index]), index, size, path, bytes.fromhex(ROOTS[size])
    )


@pytest.mark.parametrize(("old", "new"), CONSISTENT)
def test_consistency_proofs_are_the_known_ones(old: int, new: int) -> None:
    path = merkle.consistency(reader(LEAVES), old, new)
    assert [one.hex() for one in path] == CONSISTENT[old, new]
    assert merkle.consistent(old, bytes.fromhex(ROOTS[old]), new, bytes.fromhex(ROOTS[new]), path)


def test_every_proof_of_every_small_tree_verifies_and_one_of_another_place_does_not() -> None:
    for size in range(1, 34):
        leaves = numbered(size)
        node, top = reader(leaves), head(leaves)
        for index in range(size):
            leaf, path = merkle.leaf_hash(leaves[index]), merkle.inclusion(node, index, size)
            assert merkle.included(leaf, index, size, path, top)
            others = [other for other in range(size) if other != index]
            assert not any(merkle.included(leaf, other, size, path, top) for other in others)
        for old in range(1, size + 1):
            path = merkle.consistency(node, old, size)
            assert merkle.consistent(old, head(leaves[:old]), size, top, path)
            assert old == size or not merkle.consistent(
                old, head(leaves[: old - 1]), size, top, path
            )


@given(st.integers(1, 700), st.data())
def test_proofs_verify_and_any_change_of_them_does_not(size: int, data: st.DataObject) -> None:
    leaves = numbered(size)
    node, top = reader(leaves), head(leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    path, leaf = merkle.inclusion(node, index, size), merkle.leaf_hash(leaves[index])
    assert merkle.included(leaf, index, size, path, top)
    grew = merkle.consistency(node, old, size)
    assert merkle.consistent(old, head(leaves[:old]), size, top, grew)
    assert not merkle.included(leaf, index, size, [*path, top], top)
    assert not merkle.consistent(old, head(leaves[:old]), size, top, [*grew, top])
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        assert not merkle.included(
            leaf, index, size, [*path[:at], merkle.EMPTY, *path[at + 1 :]], top
        )
        assert not merkle.included(leaf, index, size, path[:at] + path[at + 1 :], top)
    if grew:
        at = data.draw(st.integers(0, len(grew) - 1))
        changed = [*grew[:at], merkle.EMPTY, *grew[at + 1 :]]
        assert not merkle.consistent(old, head(leaves[:old]), size, top, changed)


@given(st.lists(st.integers(0, 600), max_size=5))
def test_a_tree_that_grows_in_steps_is_that_of_all_its_leaves_and_knows_its_complete_subtrees(
    steps: list[int],
) -> None:
    from app.audit.tree import LEVEL, Tree, grow

    leaves = [merkle.leaf_hash(leaf) for leaf in numbered(sum(steps))]
    tree, known, ends = Tree(), dict[tuple[int, int], bytes](), [0]
    for step in steps:
        ends.append(ends[-1] + step)
    for begin, end in pairwise(ends):
        tree, nodes = grow(tree, leaves[begin:end])
        known |= {(node.level, node.place): node.hash for node in nodes}
        assert tree.root == merkle.root(merkle.peaks_of(leaves[:end]))
    wanted = {(level, place) for level in range(LEVEL, 20) for place in range(len(leaves) >> level)}
    assert known.keys() == wanted
    assert all(value == reader(numbered(len(leaves)))(*at) for at, value in known.items())
