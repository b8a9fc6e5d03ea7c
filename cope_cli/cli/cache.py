"""`cope cache ls | verify | prune`."""

from __future__ import annotations

from typing import Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, CacheOption, JsonOption, WorkersOption

app = typer.Typer(help="What is on disk, is it sound, what can go.", no_args_is_help=True)


@app.command("ls")
def ls(cache: CacheOption = DEFAULT_CACHE, json: JsonOption = False) -> None:
    """List the entries of a cache."""
    from cope_cli.cache.listing import list_cache

    rows = list_cache(cache)
    if json:
        show.print_json(rows)
        return
    columns = ["entry", "kind", "holds", "RGB slots", "on disk"]
    show.print_table(
        str(cache), columns, [(r.name, r.kind, r.summary, r.frames, show.as_bytes(r.size_bytes)) for r in rows]
    )
    show.out.print(f"{len(rows)} entries, {show.as_bytes(sum(row.size_bytes for row in rows))}")


@app.command("verify")
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Entries to check; all of the cache if none.")] = None,
    workers: WorkersOption = 0,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Check every byte against its manifest, and warp + residual = frame on every pixel of every slot."""
    from cope_cli.stages.verify import verify_batch

    outcomes = show.run_batch("verify", verify_batch(names or [], cache, workers=workers))
    rows = [
        (r.name, r.kind, str(r.num_slots), str(r.num_pixels), "sound" if r.is_compared else "sound, its video gone")
        for outcome in outcomes
        if (r := outcome.result) is not None
    ]
    columns = ["entry", "kind", "slots rebuilt", "pixels equal", ""]
    show.finish("Verified", columns, rows, outcomes, as_json=json)


@app.command("prune")
def prune(
    names: Annotated[list[str] | None, typer.Argument(help="Entries to remove; if none, what is of no use.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove; without it only say what would go.")] = False,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Remove leftovers of killed processes, entries that cannot be used, and superseded videos; or named entries."""
    from cope_cli.cache.prune import find_named, find_removable
    from cope_cli.cache.store import Cache

    store = Cache(cache)
    removable = find_named(store, names) if names else find_removable(store)
    rows = [(item.name, item.reason, item.size_bytes) for item in removable]
    if yes:
        for item in removable:
            item.remove()
    if json:
        keys = ("name", "reason", "size_bytes")
        show.print_json({"removed": yes, "entries": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    title = "Removed" if yes else "Would be removed (--yes does it)"
    show.print_table(title, ["name", "why", "size"], [(name, why, show.as_bytes(size)) for name, why, size in rows])
