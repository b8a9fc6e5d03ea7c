"""`cope bench`: figures, each with the command that prints it. Options and dispatch; the tables are beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cope_cli.cli.options import DEFAULT_CACHE, DEFAULT_RUNS, CacheOption, JsonOption, RunsOption
from cope_cli.errors import UsageError

VideosArgument = Annotated[list[str] | None, typer.Argument(help="Video files; for --warp files or cache entries.")]
TokensFlag = Annotated[bool, typer.Option("--tokens", help="Token budgets: the paper's arithmetic.")]
TtftFlag = Annotated[bool, typer.Option("--ttft", help="Time to first token; of VIDEOS from the file on, if named.")]
ExtractFlag = Annotated[bool, typer.Option("--extract", help="CPU of extraction beside bare decoding.")]
EncodeFlag = Annotated[bool, typer.Option("--encode", help="CPU of encoding beside the ffmpeg program.")]
ParallelFlag = Annotated[bool, typer.Option("--parallel", help="Wall time with one worker and with all.")]
MemoryFlag = Annotated[bool, typer.Option("--memory", help="Peak memory of a worker on a long video.")]
StorageFlag = Annotated[bool, typer.Option("--storage", help="Bytes per slot by layout and codec, of a cache.")]
LoaderFlag = Annotated[bool, typer.Option("--loader", help="Training samples read per CPU second, of a cache.")]
ResidualFlag = Annotated[bool, typer.Option("--residual", help="How exact the codec's own prediction is.")]
LowresFlag = Annotated[bool, typer.Option("--lowres", help="Speed and drift of decoding at reduced size.")]
WarpFlag = Annotated[bool, typer.Option("--warp", help="How well motion alone predicts the next slot.")]
DirectFlag = Annotated[
    bool, typer.Option("--direct", help="CPU and warp error without re-encoding, beside encode + extract.")
]
AdaptiveFlag = Annotated[
    bool, typer.Option("--adaptive", help="Error of adaptive windows beside fixed ones with equally many slots.")
]
SensitivityFlag = Annotated[
    bool, typer.Option("--sensitivity", help="What quality, GOP, short side, 4MV and codec change, one at a time.")
]
RetrievalOption = Annotated[
    str | None, typer.Option(metavar="RUN", help="Next-frame retrieval (H.6) with a pretrain run; of VIDEOS if named.")
]
AccuracyOption = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Right answers of a model, or of a finetune run, to --data.")
]
AblationOption = Annotated[
    Path | None,
    typer.Option(metavar="SPEC", help="Trainings x seeds x evaluations, into --out; resumes.", dir_okay=False),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Questions with answers, such as `cope scenes` writes (--accuracy, --sensitivity).", dir_okay=False
    ),
]
DeltaOption = Annotated[
    str, typer.Option(help="on; zero replaces Delta-tokens by zeros, off leaves them out (--accuracy).")
]
KeyframesOption = Annotated[
    int, typer.Option(help="K: slots per GOP shown as RGB; 0 takes the model's, or 4 (--accuracy).")
]
LimitOption = Annotated[int | None, typer.Option(help="Ask about the first so many videos alone (--accuracy).")]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for JSON and PNG (--accuracy, --ablation), or PNG (--sensitivity).")
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Vision tower's model, if not the run's (--retrieval); model to ask (--sensitivity)."),
]
ShortSideOption = Annotated[
    int | None,
    typer.Option(
        help="Size to encode at, 0 is the source's; default 0, 384 for --parallel, --memory, --ttft, --direct,"
        " --adaptive and --sensitivity."
    ),
]
RoundsOption = Annotated[int, typer.Option(min=1, help="Runs of each variant; medians are shown.")]
HoursOption = Annotated[float, typer.Option(help="Length that the video is repeated to (--memory).")]
GeometryOption = Annotated[str, typer.Option(help="Whose numbers, with random weights: tiny, 0.5b or 7b (--ttft).")]
DtypeOption = Annotated[str, typer.Option(help="fp32, bf16 or fp16; auto is bf16 on a GPU, fp32 on a CPU (--ttft).")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, ...; auto: a GPU if there is one.")]
NewTokensOption = Annotated[int, typer.Option(help="Tokens of the answer (--ttft, --sensitivity).")]
ShortWarmUpFlag = Annotated[
    bool, typer.Option("--short-warm-up", help="Warm up on one GOP, not on every configuration (--ttft).")
]
ShareLayersFlag = Annotated[
    bool,
    typer.Option("--share-layers", help="The LLM's layers share one layer's weights: same work, less memory (--ttft)."),
]


def bench(
    videos: VideosArgument = None,
    tokens: TokensFlag = False,
    ttft: TtftFlag = False,
    extract: ExtractFlag = False,
    encode: EncodeFlag = False,
    parallel: ParallelFlag = False,
    memory: MemoryFlag = False,
    storage: StorageFlag = False,
    loader: LoaderFlag = False,
    residual: ResidualFlag = False,
    lowres: LowresFlag = False,
    warp: WarpFlag = False,
    direct: DirectFlag = False,
    adaptive: AdaptiveFlag = False,
    sensitivity: SensitivityFlag = False,
    retrieval: RetrievalOption = None,
    accuracy: AccuracyOption = None,
    ablation: AblationOption = None,
    data: DataOption = None,
    delta: DeltaOption = "on",
    keyframes: KeyframesOption = 0,
    limit: LimitOption = None,
    out: OutOption = None,
    model: ModelOption = None,
    fusion: Annotated[int, typer.Option(help="Fusion window s.")] = 30,
    grid: Annotated[int, typer.Option(help="Grid side.")] = 224,
    short_side: ShortSideOption = None,
    rounds: RoundsOption = 5,
    hours: HoursOption = 2.0,
    geometry: GeometryOption = "tiny",
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    new_tokens: NewTokensOption = 64,
    short_warm_up: ShortWarmUpFlag = False,
    share_layers: ShareLayersFlag = False,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Measure: right answers, tokens, time to first token, retrieval, speed, memory, storage, exactness."""
    flags = {"tokens": tokens, "ttft": ttft, "extract": extract, "encode": encode, "parallel": parallel}
    flags |= {
        "memory": memory,
        "storage": storage,
        "loader": loader,
        "residual": residual,
        "lowres": lowres,
        "warp": warp,
        "direct": direct,
        "adaptive": adaptive,
        "sensitivity": sensitivity,
        "retrieval": retrieval is not None,
        "accuracy": accuracy is not None,
        "ablation": ablation is not None,
    }
    name = _chosen(flags)
    from cope_cli.cli.bench import data as bench_data
    from cope_cli.cli.bench import direct as bench_direct
    from cope_cli.cli.bench import model as bench_model
    from cope_cli.cli.bench import sensitivity as bench_sensitivity

    if accuracy is not None:
        from cope_cli.cli.bench import answers as bench_answers

        bench_answers.accuracy(accuracy, data, delta, keyframes, limit, device, out, cache, runs, json)
    elif ablation is not None:
        from cope_cli.cli.bench import answers as bench_answers

        bench_answers.ablation(ablation, device, out, cache, json)
    elif retrieval is not None:
        bench_model.retrieval(retrieval, videos or [], model, fusion, device, cache, runs, json)
    elif name == "tokens":
        bench_model.tokens(json)
    elif name == "storage":
        bench_data.storage(cache, json)
    elif name == "loader":
        bench_data.loader(cache, fusion, grid, rounds, json)
    elif name == "warp":
        bench_data.warp(videos or [], cache, json)
    else:
        default_side = 384 if name in ("parallel", "memory", "ttft", "direct", "adaptive", "sensitivity") else 0
        side = default_side if short_side is None else short_side
        paths = [] if name == "ttft" and not videos else bench_data.find_files(videos or [], f"--{name}")
        run = bench_data.FileRun(paths, fusion, grid, side, rounds, json)
        if name == "ttft":
            warm_up, share = not short_warm_up, share_layers
            bench_model.ttft(run, geometry, dtype, device, new_tokens, is_warm_up_full=warm_up, shares_layers=share)
        elif name == "direct":
            bench_direct.direct(run)
        elif name == "adaptive":
            bench_direct.adaptive(run)
        elif name == "sensitivity":
            bench_sensitivity.sensitivity(run, model, data, device, new_tokens, runs, out)
        else:
            bench_data.measure_files(name, run, hours, [side] if short_side is not None else [0, 384, 224])


def _chosen(flags: dict[str, bool]) -> str:
    """Return the one benchmark that was asked for."""
    names = [name for name, is_chosen in flags.items() if is_chosen]
    if len(names) != 1:
        raise UsageError(f"choose one of {', '.join(f'--{name}' for name in flags)}")
    return names[0]
