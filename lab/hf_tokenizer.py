"""A tokenizer that came with imported weights, behind the interface of our own, and the one door to either.

`HFTokenizer` reads `tokenizer.json` with the `tokenizers` library (no code of the folder's runs; its chat template renders
in transformers' sandbox). Two families fit: byte-level BPE (GPT-2, Llama 3, SmolLM2) and BPE over "▁" with byte fallback
(Llama 2, Mistral). As in `tokenizer`, text never becomes a special token; only `chat` places specials.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Int

from lab.durable import replace_file
from lab.tokenizer import BYTE_OF_LETTER, BadTokenizer, Tokenizer

SETTINGS = "lab_tokenizer.json"  # beside the folder's own files: what they do not say
# All that a folder may carry of a tokenizer; anything else in it (code, weights) is left behind.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
)
_MARK = "\ue000"  # private use: stands for the contents of a chat while its template is rendered


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder: one of ours, or the one that imported weights came with.

    Raises:
        BadTokenizer: the folder is missing, changed since, or of a family that does not fit.
    """
    if (folder / SETTINGS).is_file():
        return HFTokenizer.load(folder)
    return Tokenizer.load(folder)


class HFTokenizer(Tokenizer):
    """See `Tokenizer` for what each method does; differences are those of the tokenizer that is served.

    Attributes:
        bos: what stands before a document: the token that this tokenizer itself puts before a text, else the boundary
            between documents (`<|endoftext|>` where there is one).
        end: what ends an answer. pad: never a token of plain text.
    """

    def __init__(self, files: Mapping[str, bytes], vocab_size: int | None = None) -> None:
        """Args: files: contents by name, of `FILES`; vocab_size: of the model, when its table has spare rows."""
        self._files = dict(files)
        try:
            structure = json.loads(files["tokenizer.json"])
            config = json.loads(files.get("tokenizer_config.json", b"{}"))
            added = structure.get("added_tokens") or []
            # Converters invent specials (an unknown token, say) for which the model has no row; they could never be used.
            structure["added_tokens"] = [
                one for one in added if not one["special"] or vocab_size is None or one["id"] < vocab_size
            ]
            self.specials = {one["content"]: one["id"] for one in structure["added_tokens"] if one["special"]}
            self._structure = json.dumps(structure) if structure["added_tokens"] != added else None
            self._plain: Any = self.to_tokenizers()
        except KeyError as missing:
            raise BadTokenizer(f"tokenizer: has no {missing}. Save it with transformers' save_pretrained.") from None
        except Exception as error:  # tokenizers raises bare Exception for a file it cannot build
            raise BadTokenizer(
                f"tokenizer.json cannot be read ({error}). Take the folder from its source again."
            ) from None
        self._plain.encode_special_tokens = True  # a special's spelling in text is ordinary text
        self._byte_level = _is_byte_level(structure)
        known = self._plain.get_vocab_size(with_added_tokens=True)
        self.vocab_size = known if vocab_size is None else vocab_size
        if self.vocab_size < known:
            raise BadTokenizer(f"the tokenizer has {known} tokens, but the model's vocab_size is {self.vocab_size}.")
        self._bytes = self._bytes_by_id(structure)
        is_special = np.zeros(self.vocab_size, dtype=bool)
        is_special[list(self.specials.values())] = True
        lengths = np.array([len(token) for token in self._bytes], dtype=np.int64)
        self.byte_lengths: Int[np.ndarray, "vocab"] = np.where(is_special, 0, lengths)
        self._template = _template(self._files, config)
        self.bos, self.end, self.pad = self._markers(config)
        identity = [hashlib.sha256(files["tokenizer.json"]).hexdigest(), self._template, self.bos, self.end, self.pad]
        self.sha256 = hashlib.sha256(json.dumps([*identity, self.vocab_size]).encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> "HFTokenizer":
        """Read what `save` wrote. Raises BadTokenizer when a file changed since."""
        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf8"))
            tokenizer = cls(read_files(folder), settings["vocab_size"])
            stamp = settings["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadTokenizer(f"{folder}: cannot be read ({error}). Restore the folder from where it came.") from None
        if tokenizer.sha256 != stamp:
            raise BadTokenizer(f"{folder}: was changed after it was saved (its sha256 differs). Restore the folder.")
        return tokenizer

    @classmethod
    def adopt(cls, folder: Path, vocab_size: int) -> "HFTokenizer":
        """Take over the tokenizer of a Hugging Face folder, for a model with `vocab_size` rows."""
        return cls(read_files(folder), vocab_size)

    def save(self, folder: Path) -> None:
        """The files as they came, byte for byte, and `SETTINGS`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            replace_file(folder / name, content)
        settings = {"sha256": self.sha256, "vocab_size": self.vocab_size}
        replace_file(folder / SETTINGS, json.dumps(settings, indent=1).encode())

    def to_tokenizers(self) -> tokenizers.Tokenizer:
        one = tokenizers.Tokenizer.from_str(self._structure or self._files["tokenizer.json"].decode())
        one.no_padding()
        one.no_truncation()
        return one

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._plain.encode_batch([_well_formed(text) for text in texts], add_special_tokens=False)
        return [list(one.ids) for one in encoded]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self._plain.encode(_well_formed(text), add_special_tokens=False)
        ids = list(encoded.ids)
        if not ids or b"".join(self._bytes[index] for index in ids) != text.encode():
            return ids, list(encoded.offsets)  # the tokenizer rewrites text; its own account is then the best there is
        is_first = (np.frombuffer(text.encode(), dtype=np.uint8) & 0xC0) != 0x80
        character = np.cumsum(is_first) - 1
        stops = np.cumsum(self.byte_lengths[ids])
        starts = stops - self.byte_lengths[ids]
        return ids, list(zip(character[starts].tolist(), (character[stops - 1] + 1).tolist(), strict=True))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        plain = [int(token) for token in ids]
        wrong = [token for token in plain if not 0 <= token < self.vocab_size]
        if wrong:
            raise BadTokenizer(f"token id {wrong[0]} is outside the vocabulary 0..{self.vocab_size - 1}.")
        return b"".join(self._bytes[token] for token in plain)

    def chat(self, messages: Sequence[Mapping[str, str]], reply_as: str | None = None) -> tuple[list[int], list[str]]:
        """As `Tokenizer.chat`, in this tokenizer's own template: exactly transformers' `apply_chat_template`.

        Unless a message spells out a special token, or the template rewrites messages: then each is encoded on its own,
        so that no text can forge a turn.
        """
        roles, contents = [message["role"] for message in messages], [message["content"] for message in messages]
        if reply_as not in (None, "assistant"):
            raise BadTokenizer(f"this chat template opens the turn of the assistant only, not of {reply_as!r}.")
        frames, opening = self._frames(roles), ""
        rendered = self._render(roles, contents, reply=False)
        if reply_as:
            opening = self._render(roles, contents, reply=True).removeprefix(rendered)
        together = frames[0] + "".join(text + frame for text, frame in zip(contents, frames[1:], strict=True))
        if rendered == together and not any(special in text for special in self.specials for text in contents):
            encoded = self._marked.encode(rendered + opening, add_special_tokens=False)
            ends = np.cumsum([len(text) for text in self._turns(roles, frames, contents)])
            turn = np.searchsorted(ends, [stop - 1 for _, stop in encoded.offsets], side="right")
            return list(encoded.ids), [[*roles, reply_as or ""][min(index, len(roles))] for index in turn.tolist()]
        ids, turns = self.lay_out(roles, self.encode_batch(contents))
        opened = list(self._marked.encode(opening, add_special_tokens=False).ids)
        spread = [role for role, length in turns for _ in range(length)]
        return ids + opened, spread + [reply_as or ""] * len(opened)

    def lay_out(self, roles: Sequence[str], contents: Sequence[list[int]]) -> tuple[list[int], list[tuple[str, int]]]:
        ids: list[int] = []
        turns: list[tuple[str, int]] = []
        marked = self._turns(roles, self._frames(roles), [_MARK] * len(roles))
        for role, turn, content in zip(roles, marked, contents, strict=True):
            before, _, after = turn.partition(_MARK)
            inside = [list(self._marked.encode(part, add_special_tokens=False).ids) for part in (before, after)]
            ids += [*inside[0], *content, *inside[1]]
            turns.append((role, len(inside[0]) + len(content) + len(inside[1])))
        return ids, turns

    @cached_property
    def _marked(self) -> Any:
        """The same tokenizer, reading specials as specials: for templates, never for anybody's text."""
        return self.to_tokenizers()

    @cached_property
    def _jinja(self) -> Any:
        if self._template is None:
            raise BadTokenizer(
                "this tokenizer has no chat template, so it has no chat format. Give plain text instead."
            )
        from transformers import PreTrainedTokenizerFast

        names = {special: spelling for spelling, special in self.specials.items()}
        return PreTrainedTokenizerFast(
            tokenizer_object=self.to_tokenizers(), bos_token=names.get(self.bos), eos_token=names.get(self.end),
            pad_token=names.get(self.pad), chat_template=self._template,
        )  # fmt: skip

    def _render(self, roles: Sequence[str], contents: Sequence[str], reply: bool) -> str:
        messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
        try:
            return str(self._jinja.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply))
        except BadTokenizer:
            raise
        except Exception as error:  # whatever a template raises: an unknown role, turns that do not alternate
            raise BadTokenizer(f"the chat template refuses these messages: {error}") from None

    def _frames(self, roles: Sequence[str]) -> list[str]:
        """What the template writes before, between and after the contents."""
        frames = self._render(roles, [_MARK] * len(roles), reply=False).split(_MARK)
        if len(frames) != len(roles) + 1:
            raise BadTokenizer("the chat template leaves messages out or repeats them. Use fewer roles, or plain text.")
        return frames

    def _turns(self, roles: Sequence[str], frames: Sequence[str], contents: Sequence[str]) -> list[str]:
        """Each turn as text. Where one ends and the next begins shows when the template is rendered without the next."""
        turns, opening = [], frames[0]
        for index, content in enumerate(contents):
            frame = frames[index + 1]
            ending = frame if index + 1 == len(roles) else self._frames(roles[: index + 1])[-1]
            ending = ending if frame.startswith(ending) else ""
            turns.append(opening + content + ending)
            opening = frame.removeprefix(ending)
        return turns

    def _markers(self, config: Mapping[str, Any]) -> tuple[int, int, int]:
        def named(key: str) -> int | None:
            value = config.get(key)
            spelling = value.get("content") if isinstance(value, dict) else value
            return self._plain.token_to_id(spelling) if isinstance(spelling, str) else None

        first, end = named("bos_token"), named("eos_token")
        put_first = self._marked.encode("a").ids[:1]  # what the post-processor puts before a text, if anything
        boundary = self._plain.token_to_id("<|endoftext|>")
        if config.get("add_bos_token") is not True and put_first != [first] and boundary is not None:
            first = boundary
        choices = [token for token in (first, end, *self.specials.values()) if token is not None]
        if not choices:
            raise BadTokenizer("tokenizer_config.json: names neither bos_token nor eos_token, and one is needed.")
        bos, end = choices[0], choices[0] if end is None else end
        pads = [token for token in (named("pad_token"), end, *self.specials.values()) if token not in (None, bos)]
        return bos, end, next((token for token in pads if token is not None), bos)

    def _bytes_by_id(self, structure: Mapping[str, Any]) -> list[bytes]:
        """The bytes behind each id: a special's spelling, nothing for a spare row."""
        added = {entry["id"]: entry["content"].encode() for entry in structure.get("added_tokens", ())}
        out = [b""] * self.vocab_size
        for piece, index in self._plain.get_vocab(with_added_tokens=True).items():
            if index in added:
                out[index] = added[index]
            elif self._byte_level and BYTE_OF_LETTER.keys() >= set(piece):
                out[index] = bytes(BYTE_OF_LETTER[letter] for letter in piece)
            elif not self._byte_level and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                out[index] = bytes([int(piece[3:5], 16)])
            else:
                out[index] = piece.replace("▁", " ").encode()
        return out


def read_files(folder: Path) -> dict[str, bytes]:
    """A folder's tokenizer files by name. Raises BadTokenizer without a `tokenizer.json`."""
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    if "tokenizer.json" not in files:
        raise BadTokenizer(
            f"{folder}: has no tokenizer.json. Save the tokenizer there with transformers' save_pretrained."
        )
    return files


def _is_byte_level(structure: Mapping[str, Any]) -> bool:
    decoder = structure.get("decoder") or {}
    kinds = [decoder.get("type"), *(part.get("type") for part in decoder.get("decoders", ()))]
    if "ByteLevel" in kinds:
        return True
    if structure.get("model", {}).get("byte_fallback"):
        return False
    raise BadTokenizer(
        f"tokenizer.json: decoder.type = {decoder.get('type')!r}: only byte-level BPE and BPE with byte_fallback give "
        "every text back, and the lab needs that."
    )


def _template(files: Mapping[str, bytes], config: Mapping[str, Any]) -> str | None:
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode()
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {one["name"]: one["template"] for one in template}.get("default")
    return template if isinstance(template, str) else None


def _well_formed(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadTokenizer(
            f"text has the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}. Replace it."
        ) from None
    return text
