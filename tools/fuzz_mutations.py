"""The ways in which the fuzzer damages a video; mutant k of seed s is a pure function of (s, k) and the corpus."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.fuzz_sources import Corpus

#: Returns suffix and bytes.
Mutation = Callable[[random.Random, Corpus], tuple[str, bytes]]
BOXES = (b"moov", b"mdat", b"trak", b"mdia", b"stbl", b"stsd", b"stts", b"stsz", b"stco", b"stsc", b"elst", b"mvhd")
NUMBERS = (0, 1, 7, 8, 255, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def _flip(rng: random.Random, data: bytes, num_bits: int, start: int = 0, stop: int | None = None) -> bytes:
    """Flip bits at random places of ``data[start:stop]``."""
    changed = bytearray(data)
    for _ in range(num_bits):
        at = rng.randrange(start, len(data) if stop is None else stop)
        changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _block(rng: random.Random, data: bytes) -> tuple[int, int]:
    """Return start and end of a piece, mostly a small one."""
    start = rng.randrange(len(data))
    return start, min(len(data), start + max(1, int(len(data) * rng.random() ** 3)))


def flip_few(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """One to eight bits anywhere."""
    source = corpus.pick(rng)
    return source.suffix, _flip(rng, source.data, rng.randint(1, 8))


def flip_many(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """A bit in up to 2 % of the bytes."""
    source = corpus.pick(rng)
    return source.suffix, _flip(rng, source.data, max(9, int(len(source.data) * rng.uniform(0.0005, 0.02))))


def flip_header(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """Bits of the first kilobyte."""
    source = corpus.pick(rng)
    return source.suffix, _flip(rng, source.data, rng.randint(1, 32), 0, min(1024, len(source.data)))


def flip_tail(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """Bits of the last four kilobytes, where an mp4 keeps its index."""
    source = corpus.pick(rng)
    return source.suffix, _flip(rng, source.data, rng.randint(1, 64), max(0, len(source.data) - 4096))


def truncate(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """Cut off anywhere."""
    source = corpus.pick(rng)
    return source.suffix, source.data[: rng.randrange(len(source.data))]


def truncate_short(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """Cut off after 0 to 64 bytes."""
    source = corpus.pick(rng)
    return source.suffix, source.data[: rng.choice((0, rng.randint(1, 64)))]


def splice(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """The head of one file and the tail of another."""
    head, tail = corpus.pick(rng), corpus.pick(rng)
    return head.suffix, head.data[: rng.randrange(len(head.data))] + tail.data[rng.randrange(len(tail.data)) :]


def foreign_block(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """A piece of one file written over a piece of another."""
    source, other = corpus.pick(rng), corpus.pick(rng)
    start, end = _block(rng, other.data)
    at = rng.randrange(len(source.data))
    return source.suffix, source.data[:at] + other.data[start:end] + source.data[at + end - start :]


def join(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """Two or three whole files in one."""
    parts = [corpus.pick(rng) for _ in range(rng.randint(2, 3))]
    return parts[0].suffix, b"".join(part.data for part in parts)


def wrong_header(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """The first bytes replaced by those of another file, or by noise."""
    source, other = corpus.pick(rng), corpus.pick(rng)
    size = rng.randint(4, 64)
    return source.suffix, rng.choice((other.data[:size], rng.randbytes(size))) + source.data[size:]


def box_sizes(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """The size field of an mp4's boxes changed; in other containers, any four bytes near the start."""
    source = corpus.pick(rng)
    changed = bytearray(source.data)
    found = [at for box in BOXES if (at := source.data.find(box)) >= 4]
    for _ in range(rng.randint(1, 3)):
        at = rng.choice(found) - 4 if found else rng.randrange(min(4096, len(changed) - 4))
        (old,) = struct.unpack_from(">I", changed, at)
        struct.pack_into(">I", changed, at, rng.choice((*NUMBERS, (old + rng.randint(-9, 9)) % 2**32)))
    return source.suffix, bytes(changed)


def box_fields(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """Numbers inside an mp4's boxes changed: counts, times, sizes, offsets; in other containers any near the start."""
    source = corpus.pick(rng)
    changed = bytearray(source.data)
    found = [at for box in BOXES if (at := source.data.find(box)) >= 4]
    for _ in range(rng.randint(1, 4)):
        at = rng.choice(found) + 4 * rng.randint(1, 12) if found else rng.randrange(4096)
        at = min(at, len(changed) - 4)
        struct.pack_into(">I", changed, at, rng.choice((*NUMBERS, rng.getrandbits(32))))
    return source.suffix, bytes(changed)


def wrong_suffix(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """A whole file under the suffix of another kind."""
    suffixes = ("mp4", "mkv", "avi", "ts", "webm", "mpg", "m4v", "h264", "yuv", "txt", "jpg", "wav")
    return rng.choice(suffixes), corpus.pick(rng).data


def size_change(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """A stream whose pictures change their size half-way; half of these damaged as well."""
    source = rng.choice(corpus.resized)
    data = source.data if rng.random() < 0.5 else _flip(rng, source.data, rng.randint(1, 200))
    return source.suffix, data


def zero_block(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """A piece set to zero."""
    source = corpus.pick(rng)
    start, end = _block(rng, source.data)
    return source.suffix, source.data[:start] + bytes(end - start) + source.data[end:]


def double_block(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """A piece twice."""
    source = corpus.pick(rng)
    start, end = _block(rng, source.data)
    return source.suffix, source.data[:end] + source.data[start:]


def missing_block(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """A piece left out."""
    source = corpus.pick(rng)
    start, end = _block(rng, source.data)
    return source.suffix, source.data[:start] + source.data[end:]


def garbage(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """No video at all: noise, zeros, text, or noise behind a right magic number."""
    size = rng.randint(1, 1 << 16)
    magic = corpus.pick(rng).data[: rng.randint(4, 48)]
    data = rng.choice((rng.randbytes(size), bytes(size), b"not a video\n" * (size // 12), magic + rng.randbytes(size)))
    return rng.choice(("mp4", "mkv", "avi", "ts", "mpg", "webm")), data


def long_video(rng: random.Random, corpus: Corpus) -> tuple[str, bytes]:
    """A video long enough to be split among workers, whole or with little damage."""
    source = rng.choice(corpus.long)
    data = source.data
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randint(1, 4096))
    damaged = (
        data,
        _flip(rng, data, rng.randint(1, 40)),
        data[:start],
        data[:start] + bytes(end - start) + data[end:],
        data[:start] + data[end:],
        data[:end] + data[start:],
    )
    return source.suffix, rng.choice(damaged)


#: Its mutants lie in a folder of their own.
LONG = long_video.__name__

MUTATIONS: tuple[Mutation, ...] = (
    *(flip_few, flip_many, flip_header, flip_tail, truncate, truncate_short, splice, foreign_block, join),
    *(wrong_header, box_sizes, box_fields, wrong_suffix, size_change, zero_block, double_block, missing_block, garbage),
    long_video,
)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A damaged video."""

    number: int
    kind: str
    suffix: str
    data: bytes

    @property
    def stem(self) -> str:
        """The file's name without suffix; its entries' names begin with it."""
        return f"m{self.number:06d}"

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.stem}.{self.suffix}"

    def path(self, folder: Path) -> Path:
        """Where it lies in a chunk's folder of videos."""
        return folder / "long" / self.name if self.kind == LONG else folder / self.name


def mutant(corpus: Corpus, seed: int, number: int) -> Mutant:
    """Return mutant `number` of `seed`; kinds take turns."""
    mutate = MUTATIONS[number % len(MUTATIONS)]
    suffix, data = mutate(random.Random(f"{seed}/{number}"), corpus)
    return Mutant(number=number, kind=mutate.__name__, suffix=suffix, data=data)
