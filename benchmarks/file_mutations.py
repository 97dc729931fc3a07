"""Mutations of files for ``fuzz_files.py``: the damage that disks, kills, editors and careless tools do.

Random bytes and numbers only: no mutation writes the name of a function that an unsafe reader could call.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x20, 0x22, 0x5B, 0x7B)
_NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"Infinity", b"99999999999999999999", b"1" * 5000, b"0.5", b"null", b'"x"')
_TOKENS = (
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"true",
    b"-0",
    b"[" * 3000,
    b'{"a":' * 2000,
    b"\x00",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
)
_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**31, 2**63, 10**400, 1e308, -0.0, float("nan"), float("inf"), 0.25),
    *("", "x", "os", "é" * 1000, [], [[]], [1, "a", None], {}, {"a": {"b": []}}, [0.0] * 1000),
)
_SIZES = (2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1, 0)


def _place(content: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(0, max(len(content), 1)))


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4)) if content else 0):
        changed[_place(content, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    changed, start = bytearray(content), _place(content, rng)
    for i in range(start, min(start + int(rng.integers(1, 9)), len(changed))):
        changed[i] = int(rng.choice(_BYTES))
    return bytes(changed)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: _place(content, rng)]


def remove(content: bytes, rng: np.random.Generator) -> bytes:
    start = _place(content, rng)
    return content[:start] + content[start + int(rng.integers(1, 65)) :]


def repeat(content: bytes, rng: np.random.Generator) -> bytes:
    start = _place(content, rng)
    return content[:start] + content[start : start + int(rng.integers(1, 129))] * 2 + content[start:]


def insert(content: bytes, rng: np.random.Generator) -> bytes:
    start = _place(content, rng)
    return content[:start] + rng.bytes(int(rng.integers(1, 33))) + content[start:]


def zero_block(content: bytes, rng: np.random.Generator) -> bytes:
    start = _place(content, rng) // 512 * 512
    return content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :]


def other_size(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace bytes that may be a length or an offset by a large one."""
    start, width = _place(content, rng), int(rng.choice([4, 8]))
    size = int(_SIZES[int(rng.integers(len(_SIZES)))]) % 2 ** (8 * width)
    return content[:start] + size.to_bytes(width, "little") + content[start + width :]


def other_number(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace a number in a text by another number, or remove it."""
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?", content[:200_000]))
    if not numbers:
        return overwrite(content, rng)
    match = numbers[int(rng.integers(len(numbers)))]
    return content[: match.start()] + _NUMBERS[int(rng.integers(len(_NUMBERS)))] + content[match.end() :]


def other_token(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace a word, text or bracket by another value, or by deep nesting."""
    words = list(re.finditer(rb'"[^"\n]{0,80}"|[\w.-]+|[\[\]{}:,]', content[:200_000]))
    if not words:
        return insert(content, rng)
    match = words[int(rng.integers(len(words)))]
    return content[: match.start()] + _TOKENS[int(rng.integers(len(_TOKENS)))] + content[match.end() :]


def other_digit(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace a digit by another, so that the text stays valid."""
    digits = list(re.finditer(rb"\d", content[:200_000]))
    if not digits:
        return flip_bits(content, rng)
    place = digits[int(rng.integers(len(digits)))].start()
    return content[:place] + str(int(rng.integers(10))).encode() + content[place + 1 :]


def other_leaf(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace or remove a value somewhere in a JSON tree, and write the tree again."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return other_digit(content, rng)
    places: list[tuple[Any, Any]] = []
    pending: list[Any] = [tree]
    while pending and len(places) < 10_000:
        node = pending.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                pending.append(node[key])
    if not places:
        return other_token(content, rng)
    node, key = places[int(rng.integers(len(places)))]
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = _VALUES[int(rng.integers(len(_VALUES)))]
    return json.dumps(tree).encode()


def alias_without_end(content: bytes, _rng: np.random.Generator) -> bytes:
    """Append lines of YAML in which a few aliases expand to an unbounded number of values."""
    lines = [b"a0: &a0 [1, 2]"] + [
        b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)
    ]
    return content + b"\n" + b"\n".join(lines) + b"\n"


def swap_lines(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    if len(lines) < 2:
        return remove(content, rng)
    first, second = rng.integers(0, len(lines), 2)
    lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


BINARY: tuple[Mutation, ...] = (flip_bits, overwrite, cut, remove, repeat, insert, zero_block, other_size)
_OF_TEXT = (other_number, other_token, other_digit, other_leaf, other_leaf)
TEXT: tuple[Mutation, ...] = (*BINARY[:6], *_OF_TEXT, *_OF_TEXT, swap_lines, alias_without_end)
SEVERAL = 0.2
"""Probability of a second mutation."""


def mutate(content: bytes, is_text: bool, rng: np.random.Generator) -> bytes:
    """Apply one or two mutations to a file's bytes."""
    mutations = TEXT if is_text else BINARY
    for _ in range(1 + int(rng.random() < SEVERAL)):
        content = mutations[int(rng.integers(len(mutations)))](content, rng)
    return content


def mutate_member(content: bytes, rng: np.random.Generator) -> bytes:
    """Mutate one member of a zip and write the zip again, so that its checksums are correct."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = sorted(members)[int(rng.integers(len(members)))]
    inner = members[name]
    is_nested = inner[:2] == b"PK" and rng.random() < 0.5
    members[name] = mutate_member(inner, rng) if is_nested else mutate(inner, inner[:1] == b"{", rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED) as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return file.getvalue()
