"""The shape of a GPT, spelled with HookedTransformerConfig's names. No layer is built here."""

from dataclasses import dataclass, field

import torch

from lab.sections import ModelConfig


@dataclass
class GPTConfig:
    """The shape of a GPT, under HookedTransformerConfig's names, so that tools of that family find what they read."""

    n_layers: int
    d_model: int
    n_heads: int
    n_ctx: int
    d_vocab: int
    n_key_value_heads: int | None = None
    d_mlp: int | None = None  # default: 8/3 · d_model, rounded up to a multiple of 64 (SwiGLU's third matrix paid for)
    rotary_base: float = 10000.0
    eps: float = 1e-5
    tie_embeddings: bool = False
    device: str | torch.device = "cpu"
    use_attn_result: bool = False
    use_attn_in: bool = False
    use_split_qkv_input: bool = False
    use_hook_mlp_in: bool = False
    use_hook_tokens: bool = False
    default_prepend_bos: bool = True
    model_name: str = "brightwoven"
    # Read by ActivationCache, patching and SAELens; the same for every model of ours.
    act_fn: str = field(default="silu", init=False)
    normalization_type: str = field(default="RMS", init=False)
    final_rms: bool = field(default=True, init=False)
    positional_embedding_type: str = field(default="rotary", init=False)
    attention_dir: str = field(default="causal", init=False)
    gated_mlp: bool = field(default=True, init=False)
    attn_only: bool = field(default=False, init=False)
    parallel_attn_mlp: bool = field(default=False, init=False)
    use_normalization_before_and_after: bool = field(default=False, init=False)
    original_architecture: str | None = field(default=None, init=False)
    tokenizer_prepends_bos: bool = field(default=False, init=False)
    n_devices: int = field(default=1, init=False)
    dtype: torch.dtype = field(default=torch.float32, init=False)

    def __post_init__(self) -> None:
        self.d_head = self.d_model // self.n_heads
        self.rotary_dim = self.d_head
        self.attn_scale = float(self.d_head) ** 0.5
        self.d_vocab_out = self.d_vocab
        if self.d_mlp is None:
            self.d_mlp = -(-(8 * self.d_model) // (3 * 64)) * 64

    @classmethod
    def from_config(cls, config: ModelConfig) -> "GPTConfig":
        return cls(**config.model_dump())

    @property
    def n_kv(self) -> int:
        return self.n_key_value_heads or self.n_heads
