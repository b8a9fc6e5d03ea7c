"""Ask about a video, then ask again: the second question does not pay for the video.

    python examples/ask.py VIDEO [QUESTION]

Uses the bundled model, which knows rendered scenes of coloured shapes; pass another to `from_pretrained` for other
footage. Prints both answers and how many tokens each had to compute.
"""

import sys

import cope_cli as cope


def main(path: str, question: str = "What happened?") -> None:
    """Print two answers about a video."""
    model = cope.CopeVideoLM.from_pretrained("cope-tiny")
    print(model)
    chat = model.chat(cope.open(path), keyframes=1)
    for asked in (question, "How many objects are there?"):
        answer = chat.ask(asked)
        num_computed = answer.num_visual_tokens + answer.num_text_tokens - answer.num_cached_tokens
        print(f"{asked}\n  {answer}\n  {num_computed} tokens computed, {answer.num_cached_tokens} reused")


if __name__ == "__main__":
    main(*sys.argv[1:])
