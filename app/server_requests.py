"""What may be asked in OpenAI's dialect, as schemas: bounds, what is refused, and how it becomes an `Ask`. No torch is used.

What is asked for and cannot be done (several choices, tools, penalties) is refused, not ignored; fields that nobody knows
are let through, as OpenAI's own clients send some.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from app.server_answers import Ask

MOST_TEXT = 32 * 1024  # bytes of a conversation or a prompt
LONGEST_ANSWER = 8192

Name = Annotated[str, StringConstraints(max_length=128), Field(examples=["lab"])]
Text = Annotated[str, StringConstraints(max_length=MOST_TEXT)]


def _none_of(*allowed: Any) -> AfterValidator:
    def check(value: Any) -> Any:
        if value not in (None, *allowed):
            raise ValueError(f"is not supported here; leave it out{''.join(f' or use {one}' for one in allowed[:1])}")
        return value

    return AfterValidator(check)


class Asked(BaseModel):
    """What chat and completions share."""

    model_config = ConfigDict(extra="ignore")

    model: Name
    stream: bool = False
    stream_options: "StreamOptions | None" = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=LONGEST_ANSWER)
    stop: (
        Annotated[str, StringConstraints(max_length=256)]
        | list[Annotated[str, StringConstraints(max_length=256)]]
        | None
    ) = None
    n: Annotated[int | None, _none_of(1)] = None
    presence_penalty: Annotated[float | None, _none_of(0)] = None
    frequency_penalty: Annotated[float | None, _none_of(0)] = None
    logit_bias: Annotated[dict[str, float] | None, _none_of({})] = None

    @field_validator("stop")
    @classmethod
    def few_and_not_empty(cls, value: str | list[str] | None) -> list[str] | None:
        texts = [value] if isinstance(value, str) else value or []
        if len(texts) > 4 or any(not text for text in texts):
            raise ValueError("must be at most four texts, none of them empty")
        return texts

    def sampling(self) -> dict[str, Any]:
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "stop": tuple(self.stop or ()),
            "seed": self.seed,
        }

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class StreamOptions(BaseModel):
    include_usage: bool = False


class Part(BaseModel):
    type: Literal["text"]
    text: Text


class Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]

    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Asked):
    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(None, ge=1, le=LONGEST_ANSWER)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[list[Any] | None, _none_of([])] = None
    response_format: Annotated[dict[str, Any] | None, _none_of({"type": "text"})] = None

    @model_validator(mode="after")
    def of_a_size(self) -> "ChatRequest":
        if sum(len(message.plain()["content"].encode()) for message in self.messages) > MOST_TEXT:
            raise ValueError(f"the messages hold more than {MOST_TEXT} bytes together")
        if self.messages[-1].role != "user":
            raise ValueError("messages must end with one of the user")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs = true")
        return self

    def ask(self, client: str) -> Ask:
        return Ask(
            "chat",
            self.model,
            messages=tuple(message.plain() for message in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            client=client,
            **self.sampling(),
        )


class CompletionRequest(Asked):
    prompt: Text | list[Text] | list[int] | list[list[int]] = ""
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Annotated[bool | None, _none_of(False)] = None
    best_of: Annotated[int | None, _none_of(1)] = None
    suffix: Annotated[str | None, _none_of("")] = None

    @model_validator(mode="after")
    def one_prompt(self) -> "CompletionRequest":
        self.only()
        return self

    def only(self) -> str | tuple[int, ...]:
        prompt: Any = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise ValueError("several prompts are not supported; send them one by one")
            prompt = prompt[0]
        if isinstance(prompt, str):
            if len(prompt.encode()) > MOST_TEXT:
                raise ValueError(f"the prompt has more than {MOST_TEXT} bytes")
            return prompt
        if not prompt:
            raise ValueError("the prompt is empty; give a text or at least one token")
        return tuple(prompt)

    def ask(self, client: str) -> Ask:
        return Ask(
            "completion",
            self.model,
            prompt=self.only(),
            max_tokens=self.max_tokens,
            top_logprobs=self.logprobs,
            client=client,
            **self.sampling(),
        )


class TokenizeRequest(BaseModel):
    """A text, or a conversation, of which the tokens are wanted."""

    model_config = ConfigDict(extra="ignore")

    model: Name | None = None
    prompt: Text | None = None
    messages: list[Message] | None = Field(None, max_length=1024)
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def one_of_both(self) -> "TokenizeRequest":
        if (self.prompt is None) == (not self.messages):
            raise ValueError("give prompt, or messages, and not both")
        return self


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: Name | None = None
    tokens: list[int] = Field(max_length=65_536)
