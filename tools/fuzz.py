"""Fuzz the data stages: damaged videos go through encode, extract and verify, and nothing worse than an error may come.

    python tools/fuzz.py sample_videos --out DIR --num 1000 --seed 0 --workers 2 [--json]

Mutant k of seed s is a pure function of (s, k) and the source videos. Mutants run in chunks: a folder of them and one
healthy neighbour, through the batches of the public API, in a child process with a memory limit. Results are appended
to DIR/results.jsonl a chunk at a time; a run that was killed goes on where it stood. Files that did something wrong
are kept in DIR/bad.

Violations, exit code 1: a batch that raises, a video that vanishes, an error that does not name its file or is no
class of its own (an exception nobody thought of), a finished entry that fails `extract` or `verify`, a healthy
neighbour that fails, a hang, a leftover in tmp/, too much memory, a long video that two workers encode to other bytes
than one. A worker that died is a finding: the crash is a decoder's, the batch survived it; it is listed, for somebody
to look at.

Covered: bytes of videos, in the containers and codecs of the sources and of small encodes made here.
Not covered: damage in the cache (tests/reliability, tests/cache), kills (tools/kill_sweep.py), decoders that FFmpeg was
built without, memory a worker uses below the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HEALTHY = "a_healthy"  # sorts first: its time, not a mutant's, holds the start of the workers
PER_CHUNK = 20
CHUNK_SECONDS = 600.0
FILE_SECONDS = 60.0
MEMORY_BYTES = 4 * 2**30
CUT_SECONDS = 1.5
#: An original above this is cut down only.
ORIGINAL_BYTES = 8 * 2**20
ORIGINALS_SHARE = 0.1
FINE = frozenset({"done", "refused"})
LONG = "long_video"
LONG_FRAMES = 1250

#: (encoder, suffix): small encodes to damage, as far as this FFmpeg has the encoder.
ENCODINGS = (
    *(("libx264", suffix) for suffix in ("mp4", "mkv", "ts", "mov")),
    *(("mpeg4", suffix) for suffix in ("mp4", "mkv", "avi", "ts")),
    *(("mpeg2video", suffix) for suffix in ("ts", "mpg")),
    *(("ffv1", suffix) for suffix in ("mkv", "avi")),
    *(("libvpx-vp9", "webm"), ("libx265", "mp4"), ("mjpeg", "avi"), ("flv", "flv"), ("wmv2", "wmv")),
)
#: (encoder, muxer, suffix): streams whose parts can be joined, so that the picture size changes half-way.
RAW_STREAMS = (
    ("mpeg4", "m4v", "m4v"),
    ("libx264", "h264", "h264"),
    ("mpeg2video", "mpeg2video", "mpg"),
    ("libx264", "mpegts", "ts"),
)
SIZES = ((96, 64), (64, 80), (32, 32))
LONG_ENCODINGS = (("libx264", "mp4"), ("libx264", "ts"), ("mpeg4", "mkv"))
BIT_EXACT = {"fflags": "+bitexact"}


# Sources


@dataclass(frozen=True, kw_only=True)
class Source:
    """A whole video that mutants are made from."""

    name: str
    data: bytes

    @property
    def suffix(self) -> str:
        """The name's suffix, without its dot."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What mutants are made from: short videos, some originals, joined streams of changing size, long small videos."""

    short: tuple[Source, ...]
    originals: tuple[Source, ...]
    resized: tuple[Source, ...]
    long: tuple[Source, ...]
    healthy: Source

    @property
    def sha256(self) -> str:
        """Digest of every source."""
        sources = (*self.short, *self.originals, *self.resized, *self.long, self.healthy)
        return hashlib.sha256(b"".join(hashlib.sha256(source.data).digest() for source in sources)).hexdigest()

    def pick(self, rng: random.Random) -> Source:
        """Return a short video, or now and then an original."""
        return rng.choice(self.originals if self.originals and rng.random() < ORIGINALS_SHARE else self.short)


def make_corpus(paths: Sequence[Path], folder: Path) -> Corpus:
    """Cut the videos down, encode small ones, and keep them in `folder`; a folder that is complete is used as it is.

    Args:
        paths: videos, and folders of them; what FFmpeg cannot open is passed over.
        folder: where to.
    """
    files = sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("*.*"))})
    marker = folder / "complete"
    if not marker.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for index, file in enumerate(files):
            with contextlib.suppress(OSError, ValueError, LookupError):
                cut(file, folder / f"cut-{index:02d}{file.suffix.lower()}", CUT_SECONDS)
        write_small_encodes(folder)
        marker.touch()
    cuts = {path.stem for path in folder.glob("cut-*")}
    originals = tuple(
        Source(name=file.name, data=file.read_bytes())
        for index, file in enumerate(files)
        if f"cut-{index:02d}" in cuts and file.stat().st_size <= ORIGINAL_BYTES
    )
    short = (*_sources(folder, "cut-*"), *_sources(folder, "made-*"))
    (healthy,) = _sources(folder, f"{HEALTHY}.*")
    return Corpus(
        short=short,
        originals=originals,
        resized=_resized(_sources(folder, "raw-*")),
        long=_sources(folder, "long-*"),
        healthy=healthy,
    )


def _sources(folder: Path, pattern: str) -> tuple[Source, ...]:
    found = sorted(path for path in folder.glob(pattern) if path.stat().st_size)
    return tuple(Source(name=path.name, data=path.read_bytes()) for path in found)


def _resized(raw: Iterable[Source]) -> tuple[Source, ...]:
    """Join the streams of one encoder in all sizes, one after the other."""
    groups: dict[str, list[Source]] = defaultdict(list)
    for source in raw:
        groups[source.name.rsplit("-", 1)[0]].append(source)
    return tuple(
        Source(name=f"{name}.{parts[0].suffix}", data=b"".join(part.data for part in parts))
        for name, parts in sorted(groups.items())
    )


def cut(source: Path, target: Path, seconds: float) -> None:
    """Copy the packets of a video's first seconds into a file of the same kind; one that fails leaves nothing."""
    import av

    try:
        with av.open(str(source)) as read, av.open(str(target), "w", options=BIT_EXACT) as written:
            stream = read.streams.video[0]
            out = written.add_stream_from_template(stream)
            first = None
            for packet in read.demux(stream):
                if packet.dts is None or stream.time_base is None:
                    continue
                first = packet.dts if first is None else first
                if (packet.dts - first) * stream.time_base > seconds:
                    break
                packet.stream = out
                written.mux(packet)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def write_small_encodes(folder: Path) -> None:
    """Write the healthy neighbour, an encode of each kind, and raw streams in several sizes."""
    encode(folder / f"{HEALTHY}.mp4", "mpeg4", None, SIZES[0])
    for encoder, suffix in ENCODINGS:
        _try_encode(folder / f"made-{encoder}.{suffix}", encoder, None, SIZES[0])
    for encoder, muxer, suffix in RAW_STREAMS:
        for number, size in enumerate(SIZES):
            _try_encode(folder / f"raw-{encoder}-{muxer}-{number}.{suffix}", encoder, muxer, size)
    for encoder, suffix in LONG_ENCODINGS:
        _try_encode(folder / f"long-{encoder}.{suffix}", encoder, None, SIZES[2], LONG_FRAMES, 50)


def _try_encode(
    path: Path, encoder: str, muxer: str | None, size: tuple[int, int], num_frames: int = 24, gop_frames: int = 8
) -> None:
    import av

    if encoder in av.codecs_available:
        encode(path, encoder, muxer, size, num_frames, gop_frames)


def encode(
    path: Path, encoder: str, muxer: str | None, size: tuple[int, int], num_frames: int = 24, gop_frames: int = 8
) -> None:
    """Encode moving stripes; equal arguments give equal bytes.

    Args:
        path: where to.
        encoder: FFmpeg's name.
        muxer: FFmpeg's name; by the suffix if None.
        size: width and height in pixels.
        num_frames: frames at 25 per second.
        gop_frames: frames from one I-frame to the next.
    """
    import av
    import numpy as np

    width, height = size
    pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
    options = {"flags": "+bitexact", "x265-params": "log-level=none:pools=1", "preset": "veryfast"}
    with av.open(str(path), "w", format=muxer, options=BIT_EXACT) as container:
        stream = container.add_stream(encoder, rate=25, options=options if encoder.startswith("libx") else {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, pix_fmt, 1
        stream.codec_context.gop_size = gop_frames
        ys, xs = np.mgrid[:height, :width]
        for index in range(num_frames):
            stripes = np.stack([(xs + 3 * index) * 5, (ys + index) * 7, (xs + ys) * 3], axis=-1) % 256
            frame = av.VideoFrame.from_ndarray(stripes.astype(np.uint8), format="rgb24").reformat(format=pix_fmt)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# Mutations: (rng, corpus) -> (suffix, bytes)

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


# One chunk, in a child process: prints an event a line


def run_stages(folder: Path, cache: Path, workers: int) -> None:
    """Put a folder's files through all stages and print what becomes of them; each of long/ is encoded twice."""
    from cope_cli.config import EncodeConfig, ExtractConfig
    from cope_cli.stages.encode import encode_batch
    from cope_cli.stages.extract import extract_batch
    from cope_cli.stages.verify import verify_batch

    encode_config = EncodeConfig(fps=10, gop_frames=12, short_side_px=96)
    extract_config = ExtractConfig(fusion_frames=4, grid_px=64)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    _run_batch("encode", encode_batch(files, cache, encode_config, workers=workers))
    _run_batch("extract", extract_batch([], cache, extract_config, workers=workers))
    _run_batch("verify", verify_batch([], cache, workers=workers))
    caches = [cache.with_name(f"{cache.name}-{number}") for number in (1, 2)]
    for file in sorted((folder / "long").glob("*")):
        for number, root in enumerate(caches, 1):
            config = EncodeConfig(fps=30, gop_frames=60)
            _run_batch("encode" if number == 1 else "split", encode_batch([file], root, config, workers=number))
        one, two = ([path.read_bytes() for path in sorted(root.glob(f"encoded/{file.stem}-*"))] for root in caches)
        differs = {} if one == two else {"error": "Differs", "message": f"{file}: other bytes from two workers"}
        _emit(event="outcome", stage="same", item=str(file), seconds=0.0, **differs)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    left = [str(path.relative_to(cache.parent)) for root in (cache, *caches) for path in (root / "tmp").glob("*")]
    _emit(event="end", max_rss_bytes=peak * 1024, left=left)


def _run_batch(stage: str, batch: Any) -> None:
    last = time.monotonic()
    items = [*batch.errors, *batch.items]
    _emit(event="begin", stage=stage, items=items)
    started: set[str] = set()

    def on_progress(item: str, done: float, total: float) -> None:
        if item not in started:
            started.add(item)
            _emit(event="started", stage=stage, item=item)

    for outcome in batch.run(on_progress):
        now = time.monotonic()
        error = outcome.error
        failure = {} if error is None else {"error": type(error).__name__, "message": str(error)}
        _emit(event="outcome", stage=stage, item=outcome.item, seconds=round(now - last, 2), **failure)
        last = now


def _emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


# One chunk, from outside

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one mutant; `outcome` is one of `FINE` or says what went wrong."""

    number: int
    kind: str
    file: str
    outcome: str
    error: str = ""
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What became of a chunk."""

    results: tuple[Result, ...]
    violations: tuple[str, ...]
    max_rss_bytes: int = 0

    def lines(self) -> str:
        """As lines of results.jsonl."""
        rows = [asdict(result) for result in self.results]
        chunk = {"chunk": [result.number for result in self.results], "max_rss_bytes": self.max_rss_bytes}
        rows.append(chunk | {"violations": list(self.violations)})
        return "".join(json.dumps(row) + "\n" for row in rows)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a chunk may take."""

    file_seconds: float = FILE_SECONDS
    chunk_seconds: float = CHUNK_SECONDS
    memory_bytes: int = MEMORY_BYTES


def run_chunk(corpus: Corpus, mutants: Sequence[Mutant], out: Path, limits: Limits, workers: int) -> ChunkResult:
    """Run mutants and a healthy neighbour; one that hangs is taken out and the others run again."""
    left: list[Mutant] = list(mutants)
    hung: list[Result] = []
    work = out / "work" / mutants[0].stem
    try:
        while True:
            shutil.rmtree(work, ignore_errors=True)
            folder, cache = work / "videos", work / "cache"
            (folder / "long").mkdir(parents=True)
            (folder / f"{HEALTHY}.{corpus.healthy.suffix}").write_bytes(corpus.healthy.data)
            for one in left:
                one.path(folder).write_bytes(one.data)
            events, is_in_time, code, tail = watch(child_command(folder, cache, workers, limits), limits)
            if is_in_time:
                break
            stuck = hanging(events)
            culprit = next((one for one in left if one.stem == stuck), None)
            if culprit is None:
                return ChunkResult(results=tuple(hung), violations=(f"{stuck}: hangs, and is no mutant",))
            hung.append(Result(number=culprit.number, kind=culprit.kind, file=culprit.name, outcome="hang"))
            left.remove(culprit)
        results = [*hung, *(judge(one, folder, events) for one in left)]
        keep(mutants, results, out / "bad")
        return ChunkResult(
            results=tuple(sorted(results, key=lambda result: result.number)),
            violations=tuple(chunk_violations(events, code, tail, limits)),
            max_rss_bytes=next((event["max_rss_bytes"] for event in events if event["event"] == "end"), 0),
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def child_command(folder: Path, cache: Path, workers: int, limits: Limits) -> list[str]:
    """Return the command that runs `run_stages` under the memory limit."""
    arguments = [str(folder), str(cache), str(workers), str(limits.memory_bytes)]
    return [sys.executable, str(Path(__file__).resolve()), "--chunk", *arguments]


def watch(command: Sequence[str], limits: Limits) -> tuple[list[Event], bool, int, str]:
    """Run a chunk's child; returns its events, whether it ended in time, its exit code and the end of its stderr.

    A child whose next outcome takes longer than a file may take, or that takes too long altogether, is killed.
    """
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    events: list[Event] = []
    begun = time.monotonic()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as child:
        assert child.stdout is not None and child.stderr is not None
        readers = [
            threading.Thread(target=_read_lines, args=(child.stdout, lines)),
            threading.Thread(target=errors.extend, args=(child.stderr,)),
        ]
        for reader in readers:
            reader.start()
        last, is_in_time = begun, True
        while True:
            until = min(last + limits.file_seconds, begun + limits.chunk_seconds)
            try:
                line = lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                is_in_time = False
                break
            if line is None:
                break
            events.append(json.loads(line))
            last = time.monotonic() if events[-1]["event"] != "started" else last
        if not is_in_time:
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        for reader in readers:
            reader.join()
    return events, is_in_time, code, "".join(errors)[-2000:]


def _read_lines(stream: Iterable[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def stem_of(item: str) -> str:
    """Return the stem of the file that an item stands for: a path, `<stem>-<key8>`, or `<kind>/<stem>-<key8>`."""
    return item.rpartition("/")[2].partition(".")[0].partition("-")[0]


def hanging(events: Sequence[Event]) -> str:
    """Return the stem of the file that hung: begun first of those without an outcome, or the first not begun."""
    stage = [event for event in events if event.get("stage") == events[-1].get("stage")] if events else []
    done = {event["item"] for event in stage if event["event"] == "outcome"}
    begun = [event["item"] for event in stage if event["event"] == "started"]
    items = [item for event in stage if event["event"] == "begin" for item in event["items"]]
    return next((stem_of(item) for item in (*begun, *items) if item not in done), "?")


def judge(one: Mutant, folder: Path, events: Sequence[Event]) -> Result:
    """Say what became of a mutant."""
    outcomes = [event for event in events if event["event"] == "outcome" and stem_of(event["item"]) == one.stem]
    failures = [event for event in outcomes if "error" in event]
    failed = next((event for event in failures if event["stage"] == "same"), failures[0] if failures else None)
    stages = Counter(event["stage"] for event in outcomes)
    needed = {"encode": 1, "split": 1, "same": 1} if one.kind == LONG else {"encode": 1, "extract": 1, "verify": 2}
    if failed is None:
        outcome = "done" if stages == needed else "vanished"
    elif failed["error"] == "WorkerDiedError":
        outcome = "worker_died"
    elif failed["error"] == "CopeError":
        outcome = "unforeseen"
    elif failed["stage"] != "encode":
        outcome = f"{failed['stage']}_failed"
    else:
        outcome = "refused" if str(one.path(folder)) in failed["message"] else "unnamed"
    return Result(
        number=one.number,
        kind=one.kind,
        file=one.name,
        outcome=outcome,
        error="" if failed is None else failed["error"],
        message="" if failed is None else failed["message"],
        seconds=round(sum(event["seconds"] for event in outcomes), 2),
    )


def chunk_violations(events: Sequence[Event], code: int, tail: str, limits: Limits) -> Iterator[str]:
    """Yield what is wrong with a chunk as a whole."""
    end = events[-1] if events and events[-1]["event"] == "end" else None
    if end is None or code != 0:
        yield f"the batch itself failed, exit code {code}: {tail.strip()[-600:]}"
    else:
        if end["left"]:
            yield f"left in tmp/: {', '.join(end['left'])}"
        if end["max_rss_bytes"] > limits.memory_bytes:
            yield f"{end['max_rss_bytes'] >> 20} MiB resident, {limits.memory_bytes >> 20} allowed"
    healthy = [event for event in events if event["event"] == "outcome" and stem_of(event["item"]) == HEALTHY]
    if len(healthy) != 4 or any("error" in event for event in healthy):
        yield f"the healthy neighbour was not done: {[event.get('message', event['stage']) for event in healthy]}"


def keep(mutants: Iterable[Mutant], results: Iterable[Result], folder: Path) -> None:
    """Keep the files of mutants that did not end as they should."""
    wrong = {result.number for result in results if result.outcome not in FINE}
    for one in mutants:
        if one.number in wrong:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / one.name).write_bytes(one.data)


# The run


def fuzz(
    paths: Sequence[Path],
    out: Path,
    *,
    num: int,
    seed: int = 0,
    workers: int = 1,
    per_chunk: int = PER_CHUNK,
    limits: Limits | None = None,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Run mutants 0 to num - 1, those without a result yet, and return the report of all.

    Args:
        paths: videos, and folders of them.
        out: folder of the results; what is there is not done again.
        num: how many mutants.
        seed: another seed gives other mutants.
        workers: chunks at a time.
        per_chunk: mutants that share a batch.
        limits: time and memory.
        on_chunk: called with (mutants done, of how many).

    Raises:
        ValueError: `out` holds results of another seed or of other videos.
    """
    out = out.resolve()
    corpus = make_corpus(paths, out / "sources")
    _check_same_run(out / "run.json", {"seed": seed, "corpus_sha256": corpus.sha256})
    path = out / "results.jsonl"
    done = {row["number"] for row in read_rows(path) if "number" in row}
    numbers = [number for number in range(num) if number not in done]
    chunks = [numbers[start : start + per_chunk] for start in range(0, len(numbers), per_chunk)]
    lock = threading.Lock()

    def run(chunk: Sequence[int]) -> None:
        mutants = [mutant(corpus, seed, number) for number in chunk]
        inner_workers = 2 if chunk[0] // per_chunk % 4 == 3 else 1
        result = run_chunk(corpus, mutants, out, limits or Limits(), inner_workers)
        with lock:
            with path.open("a") as file:
                file.write(result.lines())
            done.update(chunk)
            on_chunk(len(done), num)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, chunks))
    return report(read_rows(path), num)


def _check_same_run(path: Path, run: dict[str, Any]) -> None:
    if not path.exists():
        path.write_text(json.dumps(run))
    elif (found := json.loads(path.read_text())) != run:
        raise ValueError(f"{path}: results of {found}, asked for {run}; choose another --out")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the results; a last line that was cut off counts as never written."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def report(rows: Sequence[dict[str, Any]], num: int) -> dict[str, Any]:
    """Count what happened; a mutant whose chunk ran twice counts once."""
    found = {row["number"]: Result(**row) for row in rows if "number" in row and row["number"] < num}
    results = [found[number] for number in sorted(found)]
    chunks = [row for row in rows if "chunk" in row]
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        kinds[result.kind][result.outcome] += 1
    findings = [result for result in results if result.outcome == "worker_died"]
    wrong = [result for result in results if result.outcome not in FINE | {"worker_died"}]
    slowest = max(results, key=lambda result: result.seconds, default=None)
    violations = [f"{result.file} ({result.kind}): {result.outcome}: {result.message}" for result in wrong]
    violations += [violation for chunk in chunks for violation in chunk["violations"]]
    violations += [f"{num - len(results)} mutants have no result"] if len(results) < num else []
    return {
        "num": len(results),
        "kinds": {kind: dict(counts) for kind, counts in sorted(kinds.items())},
        "outcomes": dict(Counter(result.outcome for result in results)),
        "errors": dict(Counter(result.error for result in results if result.error)),
        "max_rss_bytes": max((chunk["max_rss_bytes"] for chunk in chunks), default=0),
        "slowest": None if slowest is None else asdict(slowest),
        "findings": [asdict(result) for result in findings],
        "violations": violations,
    }


def show(found: dict[str, Any]) -> None:
    """Print the report for a person."""
    outcomes = sorted(found["outcomes"])
    print(f"{'mutation':<16}" + "".join(f"{outcome:>16}" for outcome in outcomes))
    for kind, counts in found["kinds"].items():
        print(f"{kind:<16}" + "".join(f"{counts.get(outcome, 0):>16}" for outcome in outcomes))
    print(f"{'all ' + str(found['num']):<16}" + "".join(f"{found['outcomes'][outcome]:>16}" for outcome in outcomes))
    print("errors:", ", ".join(f"{name} {count}" for name, count in sorted(found["errors"].items())) or "none")
    if found["slowest"] is not None:
        print(f"most memory {found['max_rss_bytes'] >> 20} MiB; slowest {found['slowest']['seconds']} s, "
              f"{found['slowest']['file']} ({found['slowest']['kind']})")  # fmt: skip
    for finding in found["findings"]:
        print(f"finding: {finding['file']} ({finding['kind']}): {finding['message']}")
    for violation in found["violations"]:
        print(f"VIOLATION: {violation}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path, help="videos and folders of them")
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--num", type=int, default=1000, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="chunks at a time")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    begun = time.monotonic()

    def on_chunk(done: int, total: int) -> None:
        print(f"{done} of {total}, {time.monotonic() - begun:.0f} s", file=sys.stderr)

    found = fuzz(
        options.videos, options.out, num=options.num, seed=options.seed, workers=options.workers, on_chunk=on_chunk
    )
    (options.out / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    return 1 if found["violations"] else 0


def _child(folder: str, cache: str, workers: str, memory_bytes: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    run_stages(Path(folder), Path(cache), int(workers))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--chunk"]:
        _child(*sys.argv[2:])
    else:
        sys.exit(main())
