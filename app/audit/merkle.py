"""The tree that the audit's records are sealed in. Pure.

Source: RFC 6962 §2.1 (hashes, inclusion and consistency proofs), RFC 9162 §2.1.3.2 and §2.1.4.2
(their verification). A subtree of 2^level leaves that begins at a multiple of its size is
*complete*: its hash never changes again. `Node` tells it by its level and its place among those of
its level. *Peaks* are the hashes of the largest complete subtrees that together hold a tree's
leaves, in their order; from them alone a tree can grow.
"""

import hashlib
from collections.abc import Callable, Sequence

SIZE = 32  # bytes of a hash
EMPTY = hashlib.sha256().digest()
Node = Callable[[int, int], bytes]


def leaf_hash(record: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\0" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of what has two subtrees."""
    return hashlib.sha256(b"\1" + left + right).digest()


def peak_places(size: int) -> list[tuple[int, int]]:
    """Level and place of each peak of a tree of `size` leaves."""
    found, begin = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            found.append((level, begin >> level))
            begin += 1 << level
    return found


def push(peaks: list[bytes], size: int, leaf: bytes) -> list[bytes]:
    """Put a leaf (or a complete subtree, `size` counted in such) behind `size` others; the hashes
    of the subtrees that it completes, from the smallest on.
    """
    made = [leaf]
    while size & 1:
        made.append(node_hash(peaks.pop(), made[-1]))
        size >>= 1
    peaks.append(made[-1])
    return made


def peaks_of(leaves: Sequence[bytes]) -> list[bytes]:
    """The peaks of a tree of these leaves."""
    peaks: list[bytes] = []
    for size, leaf in enumerate(leaves):
        push(peaks, size, leaf)
    return peaks


def root(peaks: Sequence[bytes]) -> bytes:
    """The hash of the tree that has these peaks."""
    if not peaks:
        return EMPTY
    found = peaks[-1]
    for peak in reversed(peaks[:-1]):
        found = node_hash(peak, found)
    return found


def subtree(node: Node, begin: int, end: int) -> bytes:
    """The hash over the leaves from `begin` to before `end`, which are one of the subtrees that
    proofs are made of.
    """
    places = peak_places(end - begin)
    return root([node(level, place + (begin >> level)) for level, place in places])


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def inclusion(node: Node, index: int, size: int) -> list[bytes]:
    """The proof that leaf `index` is in the tree of `size` leaves."""
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


def consistency(node: Node, old: int, new: int) -> list[bytes]:
    """The proof that the tree of `old` leaves, at least one, is the beginning of that of `new`."""
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
    """Whether the proof shows that `leaf` stands at `index` in the tree of `size` leaves whose hash
    is `head`.
    """
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    return last == 0 and found == head


def consistent(old: int, old_head: bytes, new: int, new_head: bytes, path: Sequence[bytes]) -> bool:
    """Whether the proof shows that the one tree is the beginning of the other."""
    if old == new:
        return not path and old_head == new_head
    if not 0 < old < new:
        return False
    steps = list(path) if old & old - 1 else [old_head, *path]
    if not steps:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, step)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_head and second == new_head
