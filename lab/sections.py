"""The sections of a run's configuration: every key with its type, default and bounds. `lab.config` puts them together."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PROBE_TASKS = ("class.current", "class.next", "supersense.current", "supersense.next")
BUILT_IN_SOURCES = ("chitchat", "sotu", "wiki", "canaries")  # need no path; wiki is an asset: lab data get wiki
OUTSIDE = ("wiki", "parquet", "huggingface")  # kinds that `lab.outside_sources` reads
Role = Literal["system", "user", "assistant"]
SPECIAL_TOKENS = 7  # lab.tokenizer.SPECIALS; kept as a number so that checking a configuration needs no tokenizer


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelConfig(Section):
    n_layers: int = Field(6, ge=1)
    d_model: int = Field(128, ge=2)
    n_heads: int = Field(4, ge=1)
    n_key_value_heads: int | None = Field(None, ge=1)
    d_mlp: int | None = Field(None, ge=1)
    n_ctx: int = Field(128, ge=2)
    d_vocab: int = Field(4096, ge=256 + SPECIAL_TOKENS)
    rotary_base: float = Field(10000.0, gt=1)
    eps: float = Field(1e-5, gt=0)
    tie_embeddings: bool = False

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> Self:
        if self.d_model % self.n_heads:
            fits = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0 and self.d_model // n % 2 == 0]
            near = min(fits, key=lambda n: abs(n - self.n_heads), default=1)
            raise ValueError(
                f"model.d_model = {self.d_model} is not divisible by model.n_heads = {self.n_heads}. "
                f"Use a divisor, {near} for example."
            )
        if self.d_model // self.n_heads % 2:
            raise ValueError(
                f"model.d_model / model.n_heads = {self.d_model // self.n_heads} is odd, but rotary positions turn "
                "pairs of dimensions. Change either so that the quotient is even."
            )
        if self.n_key_value_heads is not None and self.n_heads % self.n_key_value_heads:
            raise ValueError(
                f"model.n_key_value_heads = {self.n_key_value_heads} does not divide model.n_heads = {self.n_heads}. "
                "Use a divisor, or leave it out for ordinary attention."
            )
        return self


class Source(Section):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    kind: Literal["text", "folder", "jsonl", "chitchat", "sotu", "wiki", "parquet", "huggingface", "canaries"]
    path: str | None = None
    column: str = "text"  # of parquet and huggingface: text, or lists of messages
    subset: str | None = None  # of huggingface: which of the data set's configurations
    split: str = "train"  # of huggingface
    topics: tuple[str, ...] = ()  # of wiki: articles of these alone
    seed: int = Field(0, ge=0, lt=2**63)  # of canaries: which sayings are put in, and which kept out
    loss_roles: tuple[Role, ...] = ("system", "user", "assistant")

    @model_validator(mode="after")
    def path_where_needed(self) -> Self:
        if self.kind in BUILT_IN_SOURCES and self.path is not None:
            raise ValueError(f"data.sources {self.name!r}: kind {self.kind!r} comes with the lab. Take path out.")
        if self.kind not in BUILT_IN_SOURCES and not self.path:
            raise ValueError(f"data.sources {self.name!r}: kind {self.kind!r} needs path, the file or folder to read.")
        for field, kinds in (
            ("column", OUTSIDE[1:]),
            ("subset", OUTSIDE[2:]),
            ("split", OUTSIDE[2:]),
            ("topics", OUTSIDE[:1]),
            ("seed", ("canaries",)),
        ):
            if self.kind not in kinds and getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(
                    f"data.sources {self.name!r}: {field} = {getattr(self, field)!r} means nothing for kind "
                    f"{self.kind!r}, only for {' and '.join(kinds)}. Take it out."
                )
        if not self.loss_roles:
            raise ValueError(f"data.sources {self.name!r}: loss_roles is empty, so nothing would be learned.")
        return self


class Phase(Section):
    from_step: int = Field(0, ge=0)
    weights: dict[str, float]

    @model_validator(mode="after")
    def weights_are_shares(self) -> Self:
        if any(not 0 <= w < float("inf") for w in self.weights.values()) or sum(self.weights.values()) <= 0:
            raise ValueError(
                f"data.phases from_step = {self.from_step}: weights {self.weights} must be ≥ 0 with a positive sum."
            )
        return self


class DataConfig(Section):
    sources: tuple[Source, ...] = (Source(name="chat", kind="chitchat"), Source(name="prose", kind="sotu"))
    phases: tuple[Phase, ...] = (Phase(from_step=0, weights={"chat": 0.5, "prose": 0.5}),)
    validation_share: float = Field(0.02, gt=0, lt=0.5)
    tokenizer: str | None = None
    tokenizer_bytes: int = Field(8_000_000, ge=10_000)
    chats: bool = False  # whether what people say to the model while it trains is trained on

    @model_validator(mode="after")
    def phases_fit_sources(self) -> Self:
        names = [source.name for source in self.sources]
        if not names:
            raise ValueError("data.sources is empty. Name at least one text.")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"data.sources has {twice[0]!r} twice. Give each source its own name.")
        if not self.phases or self.phases[0].from_step != 0:
            raise ValueError("data.phases must begin with a phase at from_step = 0, so that step 0 has a mixture.")
        starts = [phase.from_step for phase in self.phases]
        if starts != sorted(set(starts)):
            raise ValueError(f"data.phases start at {starts}. List them in ascending order, each step once.")
        for phase in self.phases:
            for name in phase.weights:
                if name not in names:
                    raise ValueError(
                        f"data.phases from_step = {phase.from_step} weighs {name!r}, which is no source. "
                        f"Sources are: {', '.join(names)}."
                    )
        return self


class TrainConfig(Section):
    steps: int = Field(400, ge=1)
    batch: int = Field(32, ge=1)
    accumulation: int = Field(1, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int = Field(0, ge=0)
    stop: int | None = Field(None, ge=1)  # the last step of this run, where that is before the schedule's; of a branch
    log_every: int = Field(10, ge=1)
    checkpoint_blocks: bool = False  # run each block again in the backward pass instead of keeping its activations
    compile: bool = False  # the step as one torch.compile graph; refuses hooks, so no pin and no anchor


class OptimizerConfig(Section):
    kind: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of the blocks; AdamW for all else
    lr: float = Field(5e-3, gt=0, lt=10)  # peak rate of AdamW
    muon_lr: float = Field(1e-2, gt=0, lt=10)  # peak rate of Muon; its updates are as long as AdamW's at the same rate
    muon_momentum: float = Field(0.95, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.1, ge=0)
    clip: float = Field(1.0, gt=0)
    warmup_steps: int = Field(50, ge=0)
    decay: Literal["cosine", "linear", "none"] = "cosine"
    final_lr_share: float = Field(0.05, ge=0, le=1)
    eps: float = Field(1e-8, gt=0)

    @model_validator(mode="after")
    def betas_are_averages(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas = {list(self.betas)}: both must lie in 0 ≤ beta < 1.")
        return self


class CheckpointConfig(Section):
    every: int = Field(200, ge=1)
    keep: int = Field(3, ge=2)
    log_spaced: bool = True


class ReferenceConfig(Section):
    step: int | None = Field(None, ge=0)


class ProbingConfig(Section):
    every: int = Field(100, ge=0)
    log_spaced: bool = True
    tasks: tuple[str, ...] = PROBE_TASKS
    layers: Literal["all"] | tuple[int, ...] = "all"
    sentences: int = Field(400, ge=10)
    folds: int = Field(5, ge=3)
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def tasks_are_known(self) -> Self:
        for task in self.tasks:
            if task not in PROBE_TASKS:
                raise ValueError(f"probing.tasks has {task!r}. Tasks are: {', '.join(PROBE_TASKS)}.")
        if self.every and not self.tasks:
            raise ValueError("probing.tasks is empty. Name a task, or switch probing off with probing.every = 0.")
        return self


class EvaluationConfig(Section):
    every: int = Field(100, ge=0)
    tokens: int = Field(65_536, ge=1)
    benchmarks: tuple[str, ...] = ()  # names of `lab bench`: answered every benchmarks_every steps
    benchmarks_every: int = Field(0, ge=0)
    benchmark_items: int = Field(100, ge=1)  # of each, the same ones every time

    @model_validator(mode="after")
    def benchmarks_are_named(self) -> Self:
        if self.benchmarks_every and not self.benchmarks:
            raise ValueError(
                "evaluation.benchmarks is empty, so nothing would be asked. Name benchmarks, or leave "
                "evaluation.benchmarks_every = 0."
            )
        return self


class UnderstandingConfig(Section):
    every: int = Field(100, ge=0)  # the cheap checks
    batteries_every: int = Field(2000, ge=0)  # the heavier ones; 0 = off
    contrasts_every: int = Field(2000, ge=0)  # matched prompts about groups; 0 = off
    contrast_samples: int = Field(400, ge=10)  # answers an arm; fewer than 400 are told and judge nothing
    observe_only: bool = False  # record what is critical, but do not pause
    budget: float = Field(0.03, gt=0, le=1)  # share of training time; visits that cost more come less often


class SelfPlayConfig(Section):
    every: int = Field(0, ge=0)
    conversations: int = Field(1, ge=1, le=100)
    turns: int = Field(8, ge=1, le=1000)
    max_tokens: int = Field(48, ge=1)
    temperature: float = Field(0.8, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)


class CheckInConfig(Section):
    every: int = Field(0, ge=0)
    prompts: int = Field(0, ge=0)  # the first so many of the battery; 0 = all
    samples: int = Field(4, ge=1, le=1000)
    max_tokens: int = Field(48, ge=1)
    temperature: float = Field(0.8, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    system_prompt: str | None = Field(None, min_length=1, max_length=4000)
    system_from: int = Field(0, ge=0)  # the step at which it is introduced


class JournalConfig(Section):
    every: int = Field(0, ge=0)
    kinds: tuple[Literal["blind", "informed"], ...] = ("blind", "informed")
    max_tokens: int = Field(128, ge=1)
    temperature: float = Field(0.8, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def kinds_are_named_once(self) -> Self:
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"journal.kinds = {list(self.kinds)}: name blind, informed or both, each once.")
        return self


FreezeMode = Literal["anchor", "pin", "write", "write+anchor", "lower"]
ConceptName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,47}$")]


class FreezeRequest(Section):
    concept: ConceptName
    mode: FreezeMode = "anchor"
    from_step: int = Field(0, ge=0)  # it begins at the first step boundary from here on
    until: int | None = Field(None, ge=1)  # and is released there; None: held to the end
    target: float = Field(0.1, gt=0, lt=1)  # of anchor: the NRMSE that its weight is steered to
    when: Literal["step", "stable"] = (
        "step"  # stable: from `from_step` on, once shimmer reports STABLE for 4 checkpoints
    )
    fade_steps: int = Field(100, ge=0, le=10**6)  # of pin: how long it takes to let go

    @model_validator(mode="after")
    def ends_after_it_begins(self) -> Self:
        if self.until is not None and self.until <= self.from_step:
            raise ValueError(
                f"freeze {self.concept!r}: until = {self.until} is not after from_step = {self.from_step}. Release later."
            )
        return self


class FreezeConfig(Section):
    concepts: tuple[FreezeRequest, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def of_earlier_versions(cls, value: Any) -> Any:
        """Runs made before concepts could be frozen have `every = 0` here, as every section did that was not built yet."""
        if isinstance(value, Mapping) and value.get("every") == 0:
            return {key: inner for key, inner in value.items() if key != "every"}
        return value

    @model_validator(mode="after")
    def concepts_are_named_once(self) -> Self:
        names = [request.concept for request in self.concepts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"freeze.concepts has {twice[0]!r} twice. A concept is frozen once; mode write+anchor is both."
            )
        return self


class ShimmerConfig(Section):
    every: int = Field(0, ge=0)
    log_spaced: bool = True


class RemedyConfig(Section):
    """The loop remedy: what self-play and continuations loop over becomes unlikely. Off by default; compare with a twin."""

    every: int = Field(0, ge=0)  # steps between two of its terms in the loss; 1 = every step, 0 = off
    from_step: int = Field(0, ge=0)
    weight: float = Field(1.0, gt=0, le=100)  # of the unlikelihood term, in nats per token
    texts: int = Field(4, ge=1, le=1000)  # looping replies in a term
    keep: int = Field(128, ge=1, le=10_000)  # the newest looping replies; older ones are forgotten
    continuations: int = Field(16, ge=0, le=1000)  # of training text, every so many steps; 0: self-play alone is heard
    continuations_every: int = Field(10, ge=1)
    temperature: float = Field(0.0, ge=0, le=10)  # of continuations; 0 as in the paper, where small models loop most


class FeedbackConfig(Section):
    """Self-play back into training, behind a gate. Off by default; compare with a twin."""

    every: int = Field(0, ge=0)  # steps between two of its terms in the loss; 1 = every step, 0 = off
    from_step: int = Field(0, ge=0)
    share: float = Field(0.1, gt=0, le=0.1)  # of the tokens of a batch, at most; the real ones stay
