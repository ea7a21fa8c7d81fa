"""Time feed-forward blocks: a dense one, one of experts, and one of experts with product keys.

    python examples/benchmarks/layer_speed.py [--json speed.json] [--train]

Each block takes a batch of random tokens, without gradients (decoding one token after the other
has one token per sentence), or with a backward pass (--train). The blocks take turns of ten calls,
so that all of them meet what else the machine does; the medians of all calls are compared.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import median

import torch
from torch import nn

from skparse.nn import SparseExpertFeedForward

WIDTHS = 512, 1024, 2048, 4096, 8192, 16384, 32768
TOKENS = 1, 64
TURN = 10  # calls


def build_blocks(d_model, width, top_k):
    """Build the three blocks of one width."""
    dense = nn.Sequential(nn.Linear(d_model, width), nn.ReLU(), nn.Linear(width, d_model))
    blocks = {"dense": dense}
    for router in ("dense", "product"):
        layer = SparseExpertFeedForward(d_model, width, min(top_k, width), router=router)
        blocks[f"{router} router"] = layer.fold_scale_()
    return blocks


def count_multiply_adds(d_model, width, top_k):
    """Multiply-adds of each block for one token."""
    n_keys = sum(SparseExpertFeedForward(1, width, 1, router="product").key_counts)
    return {
        "dense": 2 * d_model * width,
        "dense router": d_model * (width + top_k),
        "product router": d_model * (n_keys + top_k),
    }


def predict(block, x):
    """Run one forward pass without gradients."""
    with torch.inference_mode():
        block(x)


def train(block, x):
    """Run one forward and backward pass."""
    block.zero_grad()
    block(x).sum().backward()


def time_blocks(blocks, x, run, seconds):
    """Median microseconds of each block, which take turns for about ``seconds``."""
    times = {name: [] for name in blocks}
    for block in blocks.values():
        run(block, x)
    end = time.perf_counter() + seconds
    while len(times["dense"]) < 2 * TURN or time.perf_counter() < end:
        for name, block in blocks.items():
            for _ in range(TURN):
                start = time.perf_counter()
                run(block, x)
                times[name].append(time.perf_counter() - start)
    return {name: 1e6 * median(values) for name, values in times.items()}


def measure(arguments):
    """Time all widths and numbers of tokens; a list of dicts."""
    run = train if arguments.train else predict
    rows = []
    for n_tokens in arguments.tokens:
        for width in arguments.widths:
            torch.manual_seed(0)
            blocks = build_blocks(arguments.d_model, width, arguments.top_k)
            x = torch.randn(n_tokens, arguments.d_model)
            rows.append(
                {
                    "tokens": n_tokens,
                    "width": width,
                    "microseconds": time_blocks(blocks, x, run, arguments.seconds),
                    "multiply_adds": count_multiply_adds(
                        arguments.d_model, width, arguments.top_k
                    ),
                }
            )
            print(write_row(rows[-1]), flush=True)
    return rows


COLUMNS = (
    "tokens", "width", "dense µs", "dense router µs", "ratio", "product router µs", "ratio",
    "its multiply-adds",
)  # fmt: skip
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---:' * len(COLUMNS)}|"


def write_row(row):
    """Write a row of the table."""
    dense, routed, product = row["microseconds"].values()
    share = row["multiply_adds"]["product router"] / row["multiply_adds"]["dense"]
    return (
        f"| {row['tokens']} | {row['width']:,} | {dense:,.0f} | {routed:,.0f} | "
        f"{routed / dense:.2f} | {product:,.0f} | {product / dense:.3f} | {share:.2%} |"
    )


def main():
    """Measure, print a table, and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--train", action="store_true", help="with a backward pass")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"d_model {arguments.d_model}, K {arguments.top_k}, {arguments.threads} thread(s)")
    print(f"torch {torch.__version__}, {platform.machine()}\n\n{HEAD}")
    rows = measure(arguments)
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        settings["torch"] = torch.__version__
        arguments.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
