"""The Merkle tree that audit records are sealed in: its hashes and its proofs. Pure.

Source: RFC 6962 §2.1 (hashes, inclusion and consistency proofs), RFC 9162 §2.1.3.2 and §2.1.4.2
(verification of proofs). A subtree of 2^level leaves that begins at a multiple of its size is
*complete*: its hash never changes again. It is identified by its level and its place among the
complete subtrees of that level. *Peaks* are the hashes of the largest complete subtrees that
together hold a tree's leaves, in their order; a tree can grow from its peaks alone.
"""

import hashlib
from collections.abc import Callable, Sequence

SIZE = 32  # bytes of a hash
EMPTY = hashlib.sha256().digest()
NodeLookup = Callable[[int, int], bytes]


def leaf_hash(record: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\0" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a tree with two subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


def peak_places(size: int) -> list[tuple[int, int]]:
    """Return level and place of each peak of a tree of `size` leaves."""
    places, begin = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            places.append((level, begin >> level))
            begin += 1 << level
    return places


def push(peaks: list[bytes], size: int, leaf: bytes) -> list[bytes]:
    """Append a leaf to a tree of `size` leaves; return the hashes of the subtrees it completes.

    These come smallest first, the leaf itself included. `peaks` are changed in place. The leaf may
    be a complete subtree, where `size` counts such subtrees.
    """
    completed = [leaf]
    while size & 1:
        completed.append(node_hash(peaks.pop(), completed[-1]))
        size >>= 1
    peaks.append(completed[-1])
    return completed


def peaks_of(leaves: Sequence[bytes]) -> list[bytes]:
    """Return the peaks of a tree of these leaves."""
    peaks: list[bytes] = []
    for size, leaf in enumerate(leaves):
        push(peaks, size, leaf)
    return peaks


def root(peaks: Sequence[bytes]) -> bytes:
    """Return the hash of the tree that has these peaks."""
    if not peaks:
        return EMPTY
    tree_hash = peaks[-1]
    for peak in reversed(peaks[:-1]):
        tree_hash = node_hash(peak, tree_hash)
    return tree_hash


def subtree(node: NodeLookup, begin: int, end: int) -> bytes:
    """Return the hash over the leaves from `begin` to before `end`, a subtree as proofs use it."""
    places = peak_places(end - begin)
    return root([node(level, place + (begin >> level)) for level, place in places])


def _split(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def inclusion(node: NodeLookup, index: int, size: int) -> list[bytes]:
    """Return the proof that leaf `index` is in the tree of `size` leaves."""
    begin, end, path = 0, size, list[bytes]()
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(subtree(node, middle, end))
            end = middle
        else:
            path.append(subtree(node, begin, middle))
            begin = middle
    return path[::-1]


def consistency(node: NodeLookup, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `old` leaves (at least one) begins that of `new`."""
    begin, end, path = 0, new, list[bytes]()
    while old < end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(subtree(node, middle, end))
            end = middle
        else:
            path.append(subtree(node, begin, middle))
            begin = middle
    if begin:
        path.append(subtree(node, begin, end))
    return path[::-1]


def included(leaf: bytes, index: int, size: int, path: Sequence[bytes], head: bytes) -> bool:
    """Return whether a proof shows `leaf` at `index` in the tree of `size` leaves, root `head`."""
    if not 0 <= index < size:
        return False
    position, last, tree_hash = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            tree_hash = node_hash(step, tree_hash)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            tree_hash = node_hash(tree_hash, step)
        position, last = position >> 1, last >> 1
    return last == 0 and tree_hash == head


def consistent(old: int, old_head: bytes, new: int, new_head: bytes, path: Sequence[bytes]) -> bool:
    """Return whether a proof shows that the old tree is the beginning of the new one."""
    if old == new:
        return not path and old_head == new_head
    if not 0 < old < new:
        return False
    steps = list(path) if old & old - 1 else [old_head, *path]
    if not steps:
        return False
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_root = new_root = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old_root, new_root = node_hash(step, old_root), node_hash(step, new_root)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new_root = node_hash(new_root, step)
        position, last = position >> 1, last >> 1
    return last == 0 and old_root == old_head and new_root == new_head
