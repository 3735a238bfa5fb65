"""What the server answers, as schemas: OpenAI's forms and the lab's own. No torch is used.

They check what is sent and are what `/openapi.json` shows. A number that is none (NaN, infinity) is sent as null.
"""

from typing import Any, Literal

from pydantic import BaseModel

from app.queries import EntryRow
from app.timeline import Moment

Number = float | None
FinishReason = Literal["stop", "length"]


# ------------------------------------------------------------------------------------------------------- OpenAI's forms


class Spelled(BaseModel):
    """A token, its natural-log probability and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class SpelledAmong(Spelled):
    top_logprobs: list[Spelled]


class ChatLogprobs(BaseModel):
    content: list[SpelledAmong]
    refusal: None = None


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answered(BaseModel):
    """`system_fingerprint` is the step of the weights that answered."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage


class ChatCompletion(Answered):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Completion(Answered):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    step: int


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Tokenized(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(BaseModel):
    prompt: str


# ------------------------------------------------------------------------------------------------------- the lab's own


class Health(BaseModel):
    """Of one run; of a folder only how many there are. The id is drawn anew by every server process."""

    status: Literal["ok"]
    id: str
    uptime: float
    training: str | None = None
    step: int | None = None
    weights_step: int | None = None
    runs: int | None = None


class ServerStatus(BaseModel):
    uptime: float
    device: str
    busy: bool
    waiting: int
    most_waiting: int
    weights_step: int | None
    system_prompt: str | None


class Latch(BaseModel):
    """Who holds training, and why."""

    owner: str
    reason: str
    since: float
    severity: str


class RunStatus(BaseModel):
    """The newest numbers of a run; null where nothing is recorded. Seconds."""

    name: str
    model: str
    training: str
    state: str
    preset: str
    step: int | None
    steps: int | None
    loss: Number
    bits_per_byte: Number
    tokens_per_second: Number
    last_write: Number
    problem: str | None
    latches: list[Latch]
    weights_step: int | None
    weights_saved_at: Number
    weights_age: Number
    chats_trained_on: bool  # the run's data.chats


class Status(BaseModel):
    server: ServerStatus
    runs: list[RunStatus]


class Findings(BaseModel):
    run: str
    count: int
    findings: list[dict[str, Any]]


class Journal(BaseModel):
    run: str
    count: int
    entries: list[EntryRow]


class Timeline(BaseModel):
    run: str
    moments: list[Moment]


class Acknowledged(BaseModel):
    """What became of a command; one that is not acknowledged yet was sent all the same, and will be obeyed."""

    run: str
    verb: str
    arguments: dict[str, Any]
    id: str
    acknowledged: bool
    result: str
    step: int | None = None
    changed: bool | None = None
    refused: bool | None = None


class JobReply(BaseModel):
    """A job: what was asked, how far it is (0..1, null where it does not say), its last words, and what came of it.

    `branch` is the run that a freeze makes.
    """

    id: str
    kind: str
    run: str
    options: dict[str, Any]
    branch: str | None = None
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: Number
    lines: list[str]
    result: Any
    exit_code: int | None
    asked_at: float
    begun_at: float | None
    ended_at: float | None


class JobList(BaseModel):
    jobs: list[JobReply]


class Token(BaseModel):
    id: int
    text: str
    bytes: list[int]


class Next(BaseModel):
    """A token that may come next, and its probability."""

    id: int
    text: str
    p: Number


class LensReading(BaseModel):
    """`top` is [layer][position][rank]; `next` [layer][position], of the token that does come next (null at the end)."""

    name: str
    top: list[list[list[Next]]]
    next: list[list[Number]]


class ProbeReading(BaseModel):
    """`probability` is [layer][position][class]; `usable_bits` per layer say how much to believe it."""

    classes: list[str]
    usable_bits: list[Number]
    n: int
    probability: list[list[list[Number]]]


class ConceptReading(BaseModel):
    """`strength` is [layer][position], `probability` [layer][position][class]; or the problem that there is."""

    problem: str | None = None
    layer: int | None = None
    found_at_step: int | None = None
    classes: list[str] | None = None
    strength: list[list[Number]] | None = None
    probability: list[list[list[Number]]] | None = None


class Traced(BaseModel):
    """A text as the layers of one checkpoint read it, from position `start` on; `attention` is [query][key] of the head
    asked for, keys from position 0."""

    run: str
    step: int
    checkpoint: str
    layers: str
    start: int
    tokens: list[Token]
    lens: LensReading | None = None
    untestable: dict[str, str]
    probes: dict[str, ProbeReading] | None = None
    concepts: dict[str, ConceptReading] | None = None
    attention: list[list[Number]] | None = None
