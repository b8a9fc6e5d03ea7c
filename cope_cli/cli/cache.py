"""`cope cache ls | verify | prune`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, CacheOption, JsonOption, WorkersOption, YesOption, command

if TYPE_CHECKING:
    from cope_cli.cache.listing import Listing

app = typer.Typer(help="List, verify and clean up what a cache holds.", no_args_is_help=True)


@command(app, "ls", examples=["cope cache ls", "cope cache ls --cache /data/cope_cache --json"])
def ls(cache: CacheOption = DEFAULT_CACHE, json: JsonOption = False) -> None:
    """List the videos of a cache: what is encoded, what is extracted, and how large it is."""
    from cope_cli.cache.listing import list_cache
    from cope_cli.cache.store import Cache

    Cache(cache).check_exists()
    rows = list_cache(cache)
    if json:
        show.print_json(rows)
        return
    columns = ["video", "encoded", "primitives", "holds", "RGB slots", "on disk", "made", "source"]
    drop_first = ["source", "made", "RGB slots", "holds"]
    show.print_table(str(cache), columns, _pairs(rows), drop_first=drop_first)
    show.out.print(f"{len(rows)} entries, {show.as_bytes(sum(row.size_bytes for row in rows))}", highlight=False)
    if rows:
        show.note(f"An entry's name is the video's name and its key, such as {rows[0].name}.")


def _pairs(rows: Sequence[Listing]) -> list[list[str]]:
    """Return a table row for each primitives entry beside its encoded video, and for each encoded video without any."""
    encoded = {row.name: row for row in rows if row.kind == "encoded"}
    pairs = [(encoded.get(row.encoded_name), row) for row in rows if row.kind == "primitives"]
    used = {video.name for video, _ in pairs if video is not None}
    cells = []
    for video, entry in pairs:
        is_first = video is not None and video.name in used
        size = entry.size_bytes + (video.size_bytes if video is not None and is_first else 0)
        used.discard(video.name if video is not None else "")
        cells.append(_cells(entry, _key(video), _key(entry), size))
    alone = [row for row in encoded.values() if row.name not in {video.name for video, _ in pairs if video is not None}]
    return sorted([*cells, *(_cells(row, _key(row), "-", row.size_bytes) for row in alone)])


def _key(entry: Listing | None) -> str:
    """Return the end of an entry's name, which tells the entries of one video apart."""
    return "-" if entry is None else entry.name.rpartition("-")[2]


def _cells(row: Listing, encoded: str, primitives: str, size_bytes: int) -> list[str]:
    video, made = row.name.rpartition("-")[0], row.made[:16].replace("T", " ")
    return [video, encoded, primitives, row.summary, row.frames or "-", show.as_bytes(size_bytes), made, row.source]


@command(app, "verify", examples=["cope cache verify", "cope cache verify clip-6451ec48 --workers 4"])
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Entries to check. Default: all.", metavar="NAMES")] = None,
    workers: WorkersOption = 0,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Check every byte against its manifest, and warp + residual = frame on every pixel of every slot."""
    from cope_cli.cache.store import Cache
    from cope_cli.stages.verify import verify_batch

    Cache(cache).check_exists()
    outcomes = show.run_batch("verify", verify_batch(names or [], cache, workers=workers))
    rows = [
        (
            r.name,
            r.kind,
            str(r.num_slots),
            str(r.num_pixels),
            "sound" if r.is_compared else "sound; its video is gone, so the grid frames were not compared with it",
        )
        for outcome in outcomes
        if (r := outcome.result) is not None
    ]
    columns = ["entry", "kind", "slots rebuilt", "pixels equal", "state"]
    show.finish("Verified", columns, rows, outcomes, as_json=json)
    if not outcomes:
        show.note(f"{cache}: no entries to verify")


@command(app, "prune", examples=["cope cache prune", "cope cache prune --yes", "cope cache prune clip-6451ec48"])
def prune(
    names: Annotated[
        list[str] | None, typer.Argument(help="Entries to remove. Default: all that are useless.", metavar="NAMES")
    ] = None,
    yes: YesOption = False,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Remove leftovers of killed processes, entries that cannot be used and superseded videos; or named entries.

    Without --yes the command asks; where it cannot ask, it removes nothing and lists what it would remove.
    """
    from cope_cli.cache.prune import find_named, find_removable
    from cope_cli.cache.store import Cache

    store = Cache(cache)
    store.check_exists()
    removable = find_named(store, names) if names else find_removable(store)
    rows = [(item.name, item.reason, item.size_bytes) for item in removable]
    if rows and not json:
        table = [(name, why, show.as_bytes(size)) for name, why, size in rows]
        show.print_table("Removable", ["name", "reason", "size"], table)
    if rows and not yes and not json and sys.stdin.isatty():
        total = show.as_bytes(sum(size for _, _, size in rows))
        yes = typer.confirm(f"Remove {len(rows)} entries, {total}?", err=True)
    if yes:
        for item in removable:
            item.remove()
    if json:
        keys = ("name", "reason", "size_bytes")
        show.print_json({"removed": yes, "entries": [dict(zip(keys, row, strict=True)) for row in rows]})
    elif not rows:
        show.out.print(f"{cache}: nothing to remove")
    else:
        show.out.print("Removed." if yes else "Nothing was removed; pass --yes to remove these.", highlight=False)
