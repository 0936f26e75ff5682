"""The hash table of names against a dictionary."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.fast.batch import batch
from resolver.fast.kernel import kernel
from resolver.fast.names import OUTSIDE, closest_encloser, label_count, names_of, node_of

LABEL = st.binary(min_size=1, max_size=12)
NAME = st.lists(LABEL, max_size=6).map(
    lambda labels: b"".join(bytes([len(x)]) + x for x in labels) + b"\0"
)


@kernel
def exact(names: Any, words: Any, length: Any) -> Any:
    return node_of(names, words, length)


def suffixes(name: bytes) -> list[bytes]:
    found = []
    while name[0]:
        name = name[name[0] + 1 :]
        found.append(name)
    return found


@settings(max_examples=150)
@given(st.lists(NAME, max_size=30, unique=True), st.lists(NAME, max_size=10))
def test_names_are_found_as_in_a_dictionary(known: list[bytes], other: list[bytes]) -> None:
    names = names_of(known)
    twin = {name: node for node, name in enumerate(known, 1)}
    memory, _ = batch(1)
    below = [b"\x01x" + name for name in known if len(name) < 250]
    for name in [*known, *other, *below]:
        memory.name[:] = 0xFF
        padded = name + bytes(8)
        memory.name[: len(padded)] = np.frombuffer(padded, np.uint8)
        length = np.uint64(len(name))
        assert int(exact(names, memory.name_words, length)) == twin.get(name, OUTSIDE)
        want = next((twin[s] | len(name) - len(s) << 32 for s in suffixes(name) if s in twin), 0)
        labels = np.uint64(label_count(name))
        assert int(closest_encloser(names, memory, length, labels)) == want
