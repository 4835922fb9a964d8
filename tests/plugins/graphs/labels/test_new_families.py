"""Families that no rule of the engine was written for: each from its paper, as an engineer would write it down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecore.measure import count
from prunecore.planning import plan, uniform_scores
from prunecore.surgery import certify, resize
from prunecore.types import ExampleInputs, Target
from tests.plugins.graphs.labels.cases import cut, free, frozen, image, trace

# Conformer (arXiv 2005.08100)


class Subsampling(nn.Module):
    """A quarter of the frames: two strided convolutions, and a projection of what is left of each frame."""

    def __init__(self, mels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, dim, 3, stride=2)
        self.conv2 = nn.Conv2d(dim, dim, 3, stride=2)
        self.project = nn.Linear(dim * (((mels - 1) // 2 - 1) // 2), dim)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x.unsqueeze(1)))))
        b, c, t, f = x.shape
        out: Tensor = self.dropout(self.project(x.transpose(1, 2).reshape(b, t, c * f)))
        return out


class RelativePositions(nn.Module):
    """Sinusoids of the distances from length - 1 down to 1 - length."""

    inverse: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inverse", 10000.0 ** (-torch.arange(0, dim, 2) / dim), persistent=False)

    def forward(self, length: int) -> Tensor:
        distance = torch.arange(length - 1, -length, -1, device=self.inverse.device)
        angle = distance[:, None] * self.inverse[None]
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class RelativeAttention(nn.Module):
    """Self-attention over content and distance, as in Transformer-XL."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.norm = nn.LayerNorm(dim)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.position = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.randn(heads, self.head_dim))
        self.position_bias = nn.Parameter(torch.randn(heads, self.head_dim))
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        b, t, _ = x.shape
        x = self.norm(x)
        q = self.query(x).view(b, t, self.heads, self.head_dim)
        k = self.key(x).view(b, t, self.heads, self.head_dim).transpose(1, 2)
        v = self.value(x).view(b, t, self.heads, self.head_dim).transpose(1, 2)
        p = self.position(positions).view(-1, self.heads, self.head_dim).transpose(0, 1)
        content = torch.matmul((q + self.content_bias).transpose(1, 2), k.transpose(-2, -1))
        position = self.shift(torch.matmul((q + self.position_bias).transpose(1, 2), p.transpose(-2, -1)))
        weights = ((content + position) / math.sqrt(self.head_dim)).softmax(dim=-1)
        y = torch.matmul(self.dropout(weights), v).transpose(1, 2).reshape(b, t, self.heads * self.head_dim)
        out: Tensor = self.dropout(self.out(y))
        return out

    @staticmethod
    def shift(x: Tensor) -> Tensor:
        """Row i of `x` starts at distance i."""
        b, h, t, n = x.shape
        x = F.pad(x, (1, 0)).view(b, h, n + 1, t)[:, :, 1:].reshape(b, h, t, n)
        return x[..., :t]


class ConvolutionModule(nn.Module):
    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pointwise1 = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=(kernel - 1) // 2, groups=dim)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise2 = nn.Conv1d(dim, dim, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.pointwise1(self.norm(x).transpose(1, 2)), dim=1)
        x = self.pointwise2(F.silu(self.batch_norm(self.depthwise(x))))
        out: Tensor = self.dropout(x).transpose(1, 2)
        return out


class ConformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.feed1, self.feed2 = self.feed_forward(dim), self.feed_forward(dim)
        self.attention = RelativeAttention(dim, heads)
        self.convolution = ConvolutionModule(dim, kernel)
        self.norm = nn.LayerNorm(dim)

    @staticmethod
    def feed_forward(dim: int) -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 4 * dim),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Linear(4 * dim, dim),
            nn.Dropout(0.1),
        )

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x + 0.5 * self.feed1(x)
        x = x + self.attention(x, positions)
        x = x + self.convolution(x)
        out: Tensor = self.norm(x + 0.5 * self.feed2(x))
        return out


class Conformer(nn.Module):
    """Spectrogram (batch, frames, mels) to log probabilities for CTC."""

    def __init__(self, mels: int = 16, dim: int = 16, heads: int = 4, kernel: int = 5, classes: int = 10) -> None:
        super().__init__()
        self.subsampling = Subsampling(mels, dim)
        self.positions = RelativePositions(dim)
        self.blocks = nn.ModuleList(ConformerBlock(dim, heads, kernel) for _ in range(2))
        self.head = nn.Linear(dim, classes)

    def forward(self, spectrogram: Tensor) -> Tensor:
        x = self.subsampling(spectrogram)
        positions = self.positions(x.shape[1])
        for block in self.blocks:
            x = block(x, positions)
        return F.log_softmax(self.head(x), dim=-1)


# Attention U-Net (arXiv 1804.03999)


class DoubleConv(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv3d(inputs, outputs, 3, padding=1),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv3d(outputs, outputs, 3, padding=1),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
        )


class AttentionGate(nn.Module):
    """Additive attention on a grid: the coarse `gate` says where the `skip` counts."""

    def __init__(self, skip: int, gate: int, inner: int) -> None:
        super().__init__()
        self.theta = nn.Conv3d(skip, inner, 2, stride=2, bias=False)
        self.phi = nn.Conv3d(gate, inner, 1)
        self.psi = nn.Conv3d(inner, 1, 1)
        self.out = nn.Sequential(nn.Conv3d(skip, skip, 1), nn.BatchNorm3d(skip))

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        theta = self.theta(skip)
        phi = F.interpolate(self.phi(gate), size=theta.shape[2:], mode="trilinear", align_corners=False)
        weight = torch.sigmoid(self.psi(F.relu(theta + phi, inplace=True)))
        weight = F.interpolate(weight, size=skip.shape[2:], mode="trilinear", align_corners=False)
        y: Tensor = self.out(weight.expand_as(skip) * skip)
        return y


class UpBlock(nn.Module):
    def __init__(self, inputs: int, skip: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(inputs, skip, 2, stride=2)
        self.conv = DoubleConv(2 * skip, skip)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.cat([skip, self.up(x)], dim=1))
        return y


class AttentionUNet(nn.Module):
    """Volume in, classes of each voxel out; every scale of the decoder is supervised."""

    def __init__(self, widths: Sequence[int] = (8, 12, 16, 24), classes: int = 3) -> None:
        super().__init__()
        a, b, c, d = widths
        self.down1, self.down2, self.down3 = DoubleConv(1, a), DoubleConv(a, b), DoubleConv(b, c)
        self.centre = DoubleConv(c, d)
        self.gating = nn.Sequential(nn.Conv3d(d, c, 1), nn.BatchNorm3d(c), nn.ReLU(inplace=True))
        self.gate3, self.gate2 = AttentionGate(c, c, c), AttentionGate(b, c, b)
        self.up3, self.up2, self.up1 = UpBlock(d, c), UpBlock(c, b), UpBlock(b, a)
        self.side3, self.side2, self.side1 = (nn.Conv3d(w, classes, 1) for w in (c, b, a))
        self.final = nn.Conv3d(3 * classes, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool3d(one, 2))
        three = self.down3(F.max_pool3d(two, 2))
        centre = self.centre(F.max_pool3d(three, 2))
        up3 = self.up3(centre, self.gate3(three, self.gating(centre)))
        up2 = self.up2(up3, self.gate2(two, up3))
        up1 = self.up1(up2, one)
        size = x.shape[2:]
        sides = [
            F.interpolate(self.side3(up3), size=size, mode="trilinear", align_corners=False),
            F.interpolate(self.side2(up2), size=size, mode="trilinear", align_corners=False),
            self.side1(up1),
        ]
        y: Tensor = self.final(torch.cat(sides, dim=1))
        return y


# Perceiver (arXiv 2103.03206)


def fourier(height: int, width: int, bands: int, device: torch.device) -> Tensor:
    """(height * width, 2 * (2 * bands + 1)): each coordinate, and its sines and cosines up to the Nyquist frequency."""
    ys, xs = torch.linspace(-1, 1, height, device=device), torch.linspace(-1, 1, width, device=device)
    grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij"), dim=-1).reshape(height * width, 2)
    scales = torch.stack([torch.linspace(1, n / 2, bands, device=device) for n in (height, width)])
    angles = (grid[:, :, None] * scales[None] * math.pi).flatten(1)
    return torch.cat([grid, angles.sin(), angles.cos()], dim=-1)


class Attention(nn.Module):
    """Pre-norm attention from `x` to `context`, to itself where there is none."""

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.context_norm = nn.LayerNorm(context_dim)
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(context_dim, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.to_q(self.norm(x))
        k, v = self.to_kv(self.context_norm(context)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.to_out(y)
        return out


class PerceiverLayer(nn.Module):
    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int, widening: int) -> None:
        super().__init__()
        self.attention = Attention(dim, context_dim, heads, head_dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, widening * dim),
            nn.GELU(),
            nn.Linear(widening * dim, dim),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.attention(x, x if context is None else context)
        out: Tensor = x + self.mlp(x)
        return out


class PerceiverBlock(nn.Module):
    """One look at the input, then a transformer over the latents."""

    def __init__(self, dim: int, inputs: int, depth: int) -> None:
        super().__init__()
        self.cross = PerceiverLayer(dim, inputs, heads=1, head_dim=12, widening=1)
        self.transformer = nn.ModuleList(
            PerceiverLayer(dim, dim, heads=4, head_dim=6, widening=2) for _ in range(depth)
        )

    def forward(self, latents: Tensor, data: Tensor) -> Tensor:
        latents = self.cross(latents, data)
        for layer in self.transformer:
            latents = layer(latents)
        return latents


class Perceiver(nn.Module):
    """An image as an array of bytes; all iterations but the first share their weights."""

    def __init__(self, channels: int = 3, latents: int = 8, dim: int = 24, bands: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.bands, self.iterations = bands, 3
        inputs = channels + 2 * (2 * bands + 1)
        self.latents = nn.Parameter(0.02 * torch.randn(latents, dim))
        self.first, self.shared = PerceiverBlock(dim, inputs, depth=2), PerceiverBlock(dim, inputs, depth=2)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, image: Tensor) -> Tensor:
        b, _, h, w = image.shape
        positions = fourier(h, w, self.bands, image.device).expand(b, -1, -1)
        data = torch.cat([image.flatten(2).transpose(1, 2), positions], dim=-1)
        x = self.first(self.latents.unsqueeze(0).expand(b, -1, -1), data)
        for _ in range(self.iterations - 1):
            x = self.shared(x, data)
        y: Tensor = self.head(self.norm(x.mean(dim=1)))
        return y


# A detector after YOLOv8


class ConvUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class Bottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvUnit(width, width, 3), ConvUnit(width, width, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        self.hidden = outputs // 2
        self.cv1 = ConvUnit(inputs, 2 * self.hidden)
        self.cv2 = ConvUnit((2 + depth) * self.hidden, outputs)
        self.m = nn.ModuleList(Bottleneck(self.hidden, shortcut) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).split((self.hidden, self.hidden), 1))
        y.extend(m(y[-1]) for m in self.m)
        z: Tensor = self.cv2(torch.cat(y, 1))
        return z


class SPPF(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 5) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvUnit(inputs, inputs // 2), ConvUnit(4 * (inputs // 2), outputs)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.pool(y[-1]) for _ in range(3))
        z: Tensor = self.cv2(torch.cat(y, 1))
        return z


class Detect(nn.Module):
    """Boxes as distributions over distances, and classes, from separate branches; one map a scale."""

    def __init__(self, classes: int, bins: int, inputs: Sequence[int]) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        box, score = max(8, inputs[0] // 4, 4 * bins), max(inputs[0], min(classes, 100))
        self.box = nn.ModuleList(
            nn.Sequential(ConvUnit(i, box, 3), ConvUnit(box, box, 3), nn.Conv2d(box, 4 * bins, 1)) for i in inputs
        )
        self.score = nn.ModuleList(
            nn.Sequential(ConvUnit(i, score, 3), ConvUnit(score, score, 3), nn.Conv2d(score, classes, 1))
            for i in inputs
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        for i in range(len(maps)):
            maps[i] = torch.cat((self.box[i](maps[i]), self.score[i](maps[i])), 1)
        return maps


class Detector(nn.Module):
    def __init__(self, widths: Sequence[int] = (8, 8, 16, 24, 32), classes: int = 5, bins: int = 4) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.stem = nn.Sequential(ConvUnit(3, a, 3, 2), ConvUnit(a, b, 3, 2), C2f(b, b, 1, True))
        self.stage3 = nn.Sequential(ConvUnit(b, c, 3, 2), C2f(c, c, 2, True))
        self.stage4 = nn.Sequential(ConvUnit(c, d, 3, 2), C2f(d, d, 2, True))
        self.stage5 = nn.Sequential(ConvUnit(d, e, 3, 2), C2f(e, e, 1, True), SPPF(e, e))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.top4, self.top3 = C2f(e + d, d), C2f(d + c, c)
        self.down3, self.bottom4 = ConvUnit(c, c, 3, 2), C2f(c + d, d)
        self.down4, self.bottom5 = ConvUnit(d, d, 3, 2), C2f(d + e, e)
        self.detect = Detect(classes, bins, (c, d, e))

    def forward(self, x: Tensor) -> list[Tensor]:
        three = self.stage3(self.stem(x))
        four = self.stage4(three)
        five = self.stage5(four)
        top4 = self.top4(torch.cat([self.up(five), four], 1))
        out3 = self.top3(torch.cat([self.up(top4), three], 1))
        out4 = self.bottom4(torch.cat([self.down3(out3), top4], 1))
        out5 = self.bottom5(torch.cat([self.down4(out4), five], 1))
        maps: list[Tensor] = self.detect([out3, out4, out5])
        return maps


# Mamba (arXiv 2312.00752), the scan step by step


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class MambaMixer(nn.Module):
    def __init__(self, dim: int, state: int = 4, kernel: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner = expand * dim
        self.rank, self.state = math.ceil(dim / 8), state
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.a_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.d = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :length].transpose(1, 2))
        y: Tensor = self.out_proj(self.scan(x) * F.silu(gate))
        return y

    def scan(self, x: Tensor) -> Tensor:
        batch, length, inner = x.shape
        dt, b, c = torch.split(self.x_proj(x), [self.rank, self.state, self.state], dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        decay = torch.exp(dt.unsqueeze(-1) * -torch.exp(self.a_log))
        drive = dt.unsqueeze(-1) * b.unsqueeze(2) * x.unsqueeze(-1)
        h = torch.zeros(batch, inner, self.state, device=x.device, dtype=x.dtype)
        ys = []
        for t in range(length):
            h = decay[:, t] * h + drive[:, t]
            ys.append(torch.einsum("bdn,bn->bd", h, c[:, t]))
        return torch.stack(ys, dim=1) + x * self.d


class Mamba(nn.Module):
    """Tokens to logits; the head is the embedding."""

    def __init__(self, tokens: int = 20, dim: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, dim)
        self.norms = nn.ModuleList(RMSNorm(dim) for _ in range(depth))
        self.mixers = nn.ModuleList(MambaMixer(dim) for _ in range(depth))
        self.norm = RMSNorm(dim)
        self.head = nn.Linear(dim, tokens, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        y: Tensor = self.head(self.norm(x))
        return y


# WaveNet (arXiv 1609.03499)


class CausalConv1d(nn.Conv1d):
    """Sees no later sample."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0)))


class GatedLayer(nn.Module):
    def __init__(self, residual: int, inner: int, skip: int, condition: int, dilation: int) -> None:
        super().__init__()
        self.filter = CausalConv1d(residual, inner, 2, dilation=dilation)
        self.gate = CausalConv1d(residual, inner, 2, dilation=dilation)
        self.filter_condition = nn.Linear(condition, inner, bias=False)
        self.gate_condition = nn.Linear(condition, inner, bias=False)
        self.residual, self.skip = nn.Conv1d(inner, residual, 1), nn.Conv1d(inner, skip, 1)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        value = self.filter(x) + self.filter_condition(condition).unsqueeze(-1)
        gate = self.gate(x) + self.gate_condition(condition).unsqueeze(-1)
        z = torch.tanh(value) * torch.sigmoid(gate)
        return x + self.residual(z), self.skip(z)


class WaveNet(nn.Module):
    """The next of the quantised samples, given those before it and a speaker."""

    def __init__(self, classes: int = 16, residual: int = 12, inner: int = 16, skip: int = 20) -> None:
        super().__init__()
        self.classes = classes
        self.speaker = nn.Embedding(3, 8)
        self.causal = CausalConv1d(classes, residual, 2)
        self.layers = nn.ModuleList(
            GatedLayer(residual, inner, skip, 8, dilation) for _ in range(2) for dilation in (1, 2, 4)
        )
        self.head1, self.head2 = nn.Conv1d(skip, skip, 1), nn.Conv1d(skip, classes, 1)

    def forward(self, samples: Tensor, speaker: Tensor) -> Tensor:
        x = self.causal(F.one_hot(samples, self.classes).float().transpose(1, 2))
        condition = self.speaker(speaker)
        skips = []
        for layer in self.layers:
            x, skip = layer(x, condition)
            skips.append(skip)
        y: Tensor = self.head2(F.relu(self.head1(F.relu(sum(skips)))))
        return y


def sentence() -> ExampleInputs:
    return ExampleInputs((torch.randint(0, 20, (1, 6)),))


def sound() -> ExampleInputs:
    return ExampleInputs((torch.randint(0, 16, (1, 12)), torch.randint(0, 3, (1,))))


def photograph() -> ExampleInputs:
    return image(size=64)


def spectrogram() -> ExampleInputs:
    return ExampleInputs((torch.randn(1, 27, 16),))


def volume() -> ExampleInputs:
    return ExampleInputs((torch.randn(1, 1, 16, 16, 16),))


def small_image() -> ExampleInputs:
    return ExampleInputs((torch.randn(1, 3, 6, 6),))


FAMILIES = [
    (Conformer, spectrogram),
    (AttentionUNet, volume),
    (Perceiver, small_image),
    (Detector, photograph),
    (Mamba, sentence),
    (WaveNet, sound),
]


@pytest.mark.parametrize(("family", "inputs"), FAMILIES)
def test_a_new_family_is_cut_to_the_goal(family: type[nn.Module], inputs: Callable[[], ExampleInputs]) -> None:
    net, given = family().eval(), inputs()
    graph = trace(net, given)
    made = plan(graph, uniform_scores(graph.groups), Target(0.4))
    assert abs(made.size - 0.6) <= 0.005
    small, recipe = resize(net, graph, made.proposal)
    certificate = certify(net, small, recipe, given)
    assert certificate.verified, certificate.notes
    assert count(small, given) == made.cost


def test_a_detector_carries_the_pieces_of_a_split_through_its_bottlenecks() -> None:
    first, second = [1, 4, 7], [0, 2, 3]
    found = cut(Detector().eval(), photograph(), {"stage3.1.cv1.conv": first, "stage3.1.cv1.conv#2": second})
    assert found.kept["stage3.1.cv1.conv.weight", 0] == [1, 4, 7, 8, 10, 11]
    for block in ("stage3.1.m.0", "stage3.1.m.1"):  # the shortcuts tie them all
        assert found.kept[f"{block}.cv1.conv.weight", 1] == found.kept[f"{block}.cv2.conv.weight", 0] == second
    assert found.kept["stage3.1.cv2.conv.weight", 1] == [1, 4, 7, 8, 10, 11, 16, 18, 19, 24, 26, 27]
    assert found.attributes["stage3.1", "hidden"] == 3


def test_a_detector_ties_the_scales_of_its_neck_and_keeps_every_head() -> None:
    kept, pooled = [2, 5, 31], [0, 9]
    found = cut(Detector().eval(), photograph(), {"stage5.2.cv2.conv": kept, "stage5.2.cv1.conv": pooled})
    assert found.kept["stage5.2.cv2.conv.weight", 1] == [0, 9, 16, 25, 32, 41, 48, 57]
    assert found.kept["top4.cv1.conv.weight", 1] == kept + list(range(32, 56))
    assert found.kept["bottom5.cv1.conv.weight", 1] == [*range(24), 26, 29, 55]
    outputs = {f"detect.{branch}.{scale}.2" for branch in ("box", "score") for scale in range(3)}
    assert {name for name, reason in frozen(found.graph).items() if reason == "network output"} == outputs


def test_a_selective_scan_ties_the_rows_of_its_state_to_the_gate() -> None:
    inner, state = [0, 3, 30], [1, 2]
    found = cut(Mamba().eval(), sentence(), {"mixers.0.in_proj": inner, "mixers.0.x_proj": state})
    assert found.kept["mixers.0.in_proj.weight", 0] == [0, 3, 30, 32, 35, 62]
    for place in [("conv.weight", 0), ("x_proj.weight", 1), ("dt_proj.weight", 0), ("dt_proj.bias", 0), ("a_log", 0),
                  ("d", 0), ("out_proj.weight", 1)]:  # fmt: skip
        assert found.kept[f"mixers.0.{place[0]}", place[1]] == inner
    assert found.kept["mixers.0.a_log", 1] == state
    assert found.kept["mixers.0.x_proj.weight", 0] == [0, 1, 3, 4, 7, 8]  # a rank of 2, then b and c
    assert found.attributes["mixers.0", "state"] == 2
    assert found.attributes["mixers.0.conv", "groups"] == 3


def test_a_tied_head_follows_the_embedding_and_keeps_every_token() -> None:
    stream = [1, 6, 15]
    found = cut(Mamba().eval(), sentence(), {"embedding#2": stream})
    for place in [("embedding.weight", 1), ("norms.1.weight", 0), ("mixers.0.in_proj.weight", 1),
                  ("mixers.1.out_proj.weight", 0), ("norm.weight", 0)]:  # fmt: skip
        assert found.kept[place] == stream
    assert found.model.get_parameter("head.weight") is found.model.get_parameter("embedding.weight")
    assert frozen(found.graph) == {"embedding": "rows of an embedding (aten.embedding in embedding)"}


def test_a_wavenet_ties_its_residual_stream_and_the_sum_of_its_skips() -> None:
    stream, skip = [0, 5, 11], [3, 4, 19]
    found = cut(WaveNet().eval(), sound(), {"causal": stream, "layers.0.skip": skip})
    assert found.kept["causal.weight", 0] == stream
    assert found.kept["head1.weight", 1] == skip
    for layer in (f"layers.{i}" for i in range(6)):
        assert found.kept[f"{layer}.filter.weight", 1] == found.kept[f"{layer}.gate.weight", 1] == stream
        assert found.kept[f"{layer}.residual.weight", 0] == stream
        assert found.kept[f"{layer}.skip.weight", 0] == skip
    assert frozen(found.graph)["head2"] == "network output"


def test_a_wavenet_cuts_filter_and_gate_together_in_each_layer() -> None:
    found = cut(WaveNet().eval(), sound(), {"layers.2.filter": [7, 8]})
    for name in ("filter", "gate", "filter_condition", "gate_condition"):
        assert found.kept[f"layers.2.{name}.weight", 0] == [7, 8]
    for name in ("residual", "skip"):
        assert found.kept[f"layers.2.{name}.weight", 1] == [7, 8]
    assert not any(name.startswith(("layers.1.", "layers.3.")) for name, _ in found.kept)
    assert free(found.graph)["layers.2.filter"] == 16


def test_a_conformer_rescales_query_and_both_biases_for_a_thinner_head() -> None:
    kept = {"blocks.0.attention.query": [0, 2], "blocks.0.attention.value": [0, 1, 4, 5, 8, 9, 12, 13]}
    found = cut(Conformer().eval(), spectrogram(), kept)
    for name in ("query.weight", "key.weight", "position.weight"):
        assert found.kept[f"blocks.0.attention.{name}", 0] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert found.kept["blocks.0.attention.content_bias", 1] == [0, 2]
    assert found.attributes["blocks.0.attention", "head_dim"] == 2
    scaled = {form.tensor for form in found.graph.values if form.tensor.startswith("blocks.0.")}
    assert scaled == {
        f"blocks.0.attention.{name}" for name in ("query.weight", "query.bias", "content_bias", "position_bias")
    }


def test_a_gate_of_one_channel_leaves_the_skip_free() -> None:
    found = cut(AttentionUNet().eval(), volume(), {"down2.3": [0, 3, 7]})
    assert found.kept["gate2.theta.weight", 1] == found.kept["gate2.out.0.weight", 1] == [0, 3, 7]
    assert frozen(found.graph)["gate2.psi"].startswith("a single channel is spread over a dim")


def test_a_perceiver_rescales_shared_weights_once() -> None:
    kept = {"shared.cross.attention.to_q": [1, 2, 11], "shared.cross.attention.to_kv": [0, 5, 7]}
    found = cut(Perceiver().eval(), small_image(), kept)
    assert found.kept["shared.cross.attention.to_kv.weight", 0] == [1, 2, 11, 12, 17, 19]
    shared = [form.tensor for form in found.graph.values if form.tensor == "shared.cross.attention.to_q.weight"]
    assert len(shared) == 1
    assert frozen(found.graph)["latents"].startswith("tokens with channels")
