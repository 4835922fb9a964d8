"""A 7-billion-parameter decoder, traced and planned without its weights (meta device), and its small sister cut for real.

    python tests/benchmarks/decoder.py [--reduce 0.3] [--multiple-of 8]

The decoder is Llama-like: RMSNorm, rotary embeddings, grouped-query attention, SwiGLU. A row: parameters, groups that may be cut,
CPU seconds of trace and of plan, peak resident memory. The sister is planned on the meta device too; the plan is then carried
out on its real weights, and certified.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecore.measure import count
from prunecore.planning import Plan, plan, uniform_scores
from prunecore.registry import Choice, build_manager
from prunecore.surgery import certify, resize
from prunecore.types import DependencyGraph, ExampleInputs, Target


@dataclass(frozen=True)
class Size:
    vocabulary: int
    width: int
    hidden: int
    heads: int
    key_heads: int
    layers: int


LARGE = Size(vocabulary=32_000, width=4096, hidden=14_336, heads=32, key_heads=8, layers=32)
SMALL = Size(vocabulary=8_000, width=512, hidden=1_792, heads=8, key_heads=2, layers=12)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs (i, i + half) of the last dim turned by `angles`, shape `(tokens, half)`."""
    left, right = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((left * cos - right * sin, left * sin + right * cos), dim=-1)


class Attention(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads, self.key_heads, self.head_dim = size.heads, size.key_heads, size.width // size.heads
        self.q = nn.Linear(size.width, self.heads * self.head_dim, bias=False)
        self.k = nn.Linear(size.width, self.key_heads * self.head_dim, bias=False)
        self.v = nn.Linear(size.width, self.key_heads * self.head_dim, bias=False)
        self.out = nn.Linear(self.heads * self.head_dim, size.width, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(batch, tokens, self.key_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(batch, tokens, self.key_heads, self.head_dim).transpose(1, 2)
        q, k = rotated(q, angles), rotated(k, angles)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_dim))
        return out


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = RMSNorm(size.width), Attention(size), RMSNorm(size.width)
        self.gate = nn.Linear(size.width, size.hidden, bias=False)
        self.up = nn.Linear(size.width, size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, size.width, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), angles)
        y = self.norm2(x)
        out: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return out


class Decoder(nn.Module):
    frequencies: Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        half = size.width // size.heads // 2
        self.embed = nn.Embedding(size.vocabulary, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm, self.head = RMSNorm(size.width), nn.Linear(size.width, size.vocabulary, bias=False)
        self.register_buffer("frequencies", 10_000.0 ** (-torch.arange(half) / half))

    def forward(self, tokens: Tensor) -> Tensor:
        angles = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * self.frequencies
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, angles)
        out: Tensor = self.head(self.norm(x))
        return out


def planned(size: Size, target: Target, tokens: int) -> tuple[DependencyGraph, Plan]:
    """Traced and planned on the meta device; prints a row."""
    with torch.device("meta"):
        net = Decoder(size).eval()
        inputs = ExampleInputs((torch.zeros(1, tokens, dtype=torch.long),))
    start = time.process_time()
    graph = trace(net, inputs)
    traced = time.process_time()
    made = plan(graph, uniform_scores(graph.groups), target)
    end = time.process_time()
    free = sum(g.frozen is None for g in graph.groups)
    parameters = sum(p.numel() for p in net.parameters())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"| {parameters / 1e9:.2f} | {free} | {traced - start:.2f} | {end - traced:.2f} | {memory:.2f} | {made.size:.4f} |"
    )
    return graph, made


def trace(net: nn.Module, inputs: ExampleInputs) -> DependencyGraph:
    hook = build_manager([Choice("graph", "labels", {}, "graph")]).hook
    found: DependencyGraph = hook.prune_trace(model=net, inputs=inputs, rules=())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reduce", type=float, default=0.3)
    parser.add_argument("--multiple-of", type=int)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    target = Target(options.reduce, multiple_of=options.multiple_of)
    print(
        "| billion parameters | groups | trace, CPU s | plan, CPU s | peak memory, GiB | size |\n|---|---|---|---|---|---|"
    )
    graph, made = planned(SMALL, target, options.tokens)
    planned(LARGE, target, options.tokens)

    torch.manual_seed(0)
    sister = Decoder(SMALL).eval()
    inputs = ExampleInputs((torch.randint(SMALL.vocabulary, (1, options.tokens)),))
    cut, recipe = resize(sister, graph, made.proposal)
    certificate = certify(sister, cut, recipe, inputs)
    before, after = (count(net, inputs) for net in (sister, cut))
    print(
        f"\nsister, planned without weights, cut with them: {before.macs / 1e9:.2f} -> {after.macs / 1e9:.2f} GMACs, "
        f"{before.params / 1e6:.1f} -> {after.params / 1e6:.1f} M parameters, counted as planned: {after == made.cost}, "
        f"certificate {'verified' if certificate.verified else 'NOT verified'}, max abs error {certificate.max_abs_error:.1e}"
    )


if __name__ == "__main__":
    main()
