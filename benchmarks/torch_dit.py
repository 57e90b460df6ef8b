"""The transformer's blocks in plain PyTorch, for timing alone: random weights, fused attention, the same products."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lcv_jax.config import DiTConfig

TEXT_TOKENS = 512


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns neighbouring pairs of channels."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2).to(x.dtype)


class Block(nn.Module):
    """One layer."""

    def __init__(self, cfg: DiTConfig):
        super().__init__()
        D = cfg.hidden_size
        self.heads = (cfg.num_heads, cfg.head_dim)
        self.modulation = nn.Linear(cfg.adaln_tembed_dim, 6 * D)
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.q_linear, self.kv_linear, self.cross_proj = nn.Linear(D, D), nn.Linear(D, 2 * D), nn.Linear(D, D)
        self.norm = nn.LayerNorm(D, eps=1e-6)
        self.norms = nn.ModuleList(nn.RMSNorm(cfg.head_dim, eps=1e-6) for _ in range(4))
        self.w1, self.w3 = (nn.Linear(D, cfg.ffn_dim, bias=False) for _ in range(2))
        self.w2 = nn.Linear(cfg.ffn_dim, D, bias=False)

    def forward(self, x: Tensor, text: Tensor, t: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Tokens B S D to tokens."""
        B, S, D = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(t))[:, :, None].chunk(6, -1)

        def framed(y: Tensor) -> Tensor:
            return y.view(B, t.shape[1], -1, D)

        def modulate(y: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return (F.layer_norm(framed(y), (D,), eps=1e-6) * (1 + scale) + shift).view(B, S, D)

        q, k, v = self.qkv(modulate(x, shift1, scale1)).view(B, S, 3, *self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.norms[0](q), cos, sin), rotate(self.norms[1](k), cos, sin)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, S, D)
        x = x + (gate1 * framed(self.proj(out))).view(B, S, D)

        q = self.norms[2](self.q_linear(self.norm(x)).view(B, S, *self.heads)).transpose(1, 2)
        k, v = self.kv_linear(text).view(B, -1, 2, *self.heads).transpose(1, 3).unbind(2)
        out = F.scaled_dot_product_attention(q, self.norms[3](k), v).transpose(1, 2).reshape(B, S, D)
        x = x + self.cross_proj(out)

        h = modulate(x, shift2, scale2)
        h = self.w2(F.silu(self.w1(h)) * self.w3(h))
        return x + (gate2 * framed(h)).view(B, S, D)


def torch_runner(cfg: DiTConfig, grid: tuple[int, int, int], dtype: str) -> Callable[[], object]:
    """A forward pass through all blocks over a T x H x W grid of tokens."""
    kind = {"device": "cuda" if torch.cuda.is_available() else "cpu", "dtype": getattr(torch, dtype)}
    T, H, W = grid
    blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.depth)).eval().to(**kind)
    x, text = torch.randn(1, T * H * W, cfg.hidden_size, **kind), torch.randn(1, TEXT_TOKENS, cfg.hidden_size, **kind)
    t = torch.randn(1, T, cfg.adaln_tembed_dim, **kind)
    cos, sin = (torch.randn(T * H * W, cfg.head_dim // 2, device=kind["device"]) for _ in range(2))

    @torch.inference_mode()
    def run() -> None:
        y = x
        for block in blocks:
            y = block(y, text, t, cos, sin)
        if kind["device"] == "cuda":
            torch.cuda.synchronize()

    return run
