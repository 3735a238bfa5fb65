"""Text to tokens and back: one byte-level BPE in three forms that agree token for token.

`tokenizers` trains it, `tiktoken.Encoding` serves it, and an HF folder (JSON only) carries it to other programs.
The ranks are the truth: every form is built from them, so none can drift. Text never becomes a special token here;
only `chat` places specials.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from jaxtyping import Int
from tokenizers import decoders, models, pre_tokenizers, trainers

from lab.durable import replace_file
from lab.errors import LabError

SPECIALS = ("<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|journal|>", "<|pad|>")
CHAT_ROLES = ("system", "user", "assistant", "journal")

# GPT-4's split with numbers of one or two digits, which lose less at small vocabularies (nanochat, LOG.md), and two
# changes that keep both regex engines equal and linear on any input: no case folding, whose tables are each engine's
# own; and whitespace in runs of at most 64, since on a run of a million spaces tiktoken's engine panics and the other
# turns quadratic. Letters have no such bound: {1,64} makes the automaton so big that short texts take six times as long.
PATTERN = "|".join(
    (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,2}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"[^\S\r\n]{0,64}[\r\n]+",
        r"\s{1,64}(?!\S)",
        r"\s",
    )
)

CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'journal'] %}"
    "{{ raise_exception('unknown role ' + message['role'] + ': use system, user, assistant or journal') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class BadTokenizer(LabError):
    """A tokenizer cannot be made, read or used for this text."""


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in HF's byte-level files (GPT-2's `bytes_to_unicode`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


LETTER_OF_BYTE = _byte_letters()
BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(LETTER_OF_BYTE)}


class Tokenizer:
    """A byte-level BPE. Ids: 256 bytes, then learned tokens in order of merging, then `SPECIALS`.

    Attributes:
        vocab_size: number of ids, specials included.
        specials: spelling to id, in the order of `SPECIALS`.
        byte_lengths: UTF-8 bytes behind each id; 0 for specials, so that bits per byte never counts them.
        sha256: of ranks, pattern and specials; equal hashes mean equal tokens for every text.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """Args: tokens: bytes of every ordinary token by id; the first 256 are the single bytes in order."""
        self._tokens = tuple(tokens)
        ranks = {token: rank for rank, token in enumerate(self._tokens)}
        if self._tokens[:256] != tuple(bytes([byte]) for byte in range(256)) or len(ranks) != len(self._tokens):
            raise BadTokenizer("tokenizer: the ranks do not start with the 256 bytes or repeat a token. Train it anew.")
        self.specials = {special: len(ranks) + index for index, special in enumerate(SPECIALS)}
        self.vocab_size = len(ranks) + len(SPECIALS)
        self.bos, self.end, self.pad = (self.specials[name] for name in ("<|bos|>", "<|end|>", "<|pad|>"))
        lengths = [len(token) for token in self._tokens] + [0] * len(SPECIALS)
        self.byte_lengths: Int[np.ndarray, "vocab"] = np.array(lengths, dtype=np.int64)
        identity = {"pattern": PATTERN, "specials": SPECIALS, "tokens": [token.hex() for token in self._tokens]}
        self.sha256 = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._encoding: Any = tiktoken.Encoding(
            "lab", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=self.specials
        )

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn a vocabulary of exactly `vocab_size` ids, specials included. The order of the texts does not matter.

        Raises:
            BadTokenizer: the texts hold too few repeated pieces for that many tokens.
        """
        smallest = 256 + len(SPECIALS)
        if vocab_size < smallest:
            raise BadTokenizer(
                f"model.d_vocab = {vocab_size} is too small: 256 bytes and {len(SPECIALS)} specials need {smallest}."
            )
        blank = tokenizers.Tokenizer(models.BPE())
        blank.pre_tokenizer = _splitter()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIALS),
            min_frequency=2,  # a pair seen once is a quirk of this text, not of the language
            initial_alphabet=LETTER_OF_BYTE,
            show_progress=False,
        )
        blank.train_from_iterator((_well_formed(text) for text in texts), trainer)
        in_order = sorted(blank.get_vocab().items(), key=lambda item: item[1])
        tokens = [bytes([byte]) for byte in range(256)]
        tokens += [_bytes_of(spelling) for spelling, _ in in_order if len(spelling) > 1]
        made = len(tokens) + len(SPECIALS)
        if made < vocab_size:
            raise BadTokenizer(
                f"model.d_vocab = {vocab_size}, but the training text yields only {made} tokens. "
                f"Use --set model.d_vocab={made} or less, or more text."
            )
        return cls(tokens)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read a folder that `save` wrote.

        Raises:
            BadTokenizer: the folder is missing, another program's, or changed since.
        """
        if not folder.is_dir():
            raise BadTokenizer(f"{folder}: there is no such tokenizer folder. Check data.tokenizer, or leave it out.")
        try:
            file = json.loads((folder / "tokenizer.json").read_text(encoding="utf8"))
            settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf8"))
            added = {entry["content"]: entry["id"] for entry in file["added_tokens"]}
            pattern = file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
            by_id = sorted(file["model"]["vocab"].items(), key=lambda item: item[1])
            ordinary = [_bytes_of(spelling) for spelling, _ in by_id if spelling not in added]
            stamp = settings["lab_sha256"]
        except FileNotFoundError as error:
            raise BadTokenizer(f"{folder}: has no {Path(error.filename).name}. Give a folder the lab saved.") from None
        except (KeyError, TypeError, IndexError, AttributeError):
            raise BadTokenizer(
                f"{folder}: is another program's tokenizer. The lab needs its own specials and split: leave "
                "data.tokenizer out to train one, or give a folder the lab saved."
            ) from None
        except (OSError, ValueError) as error:
            raise BadTokenizer(f"{folder}: cannot be read ({error}). Restore the folder from where it came.") from None
        if pattern != PATTERN or tuple(sorted(added, key=lambda name: added[name])) != SPECIALS:
            raise BadTokenizer(f"{folder}: was made with another split or other specials. Train the tokenizer anew.")
        tokenizer = cls(ordinary)
        if tokenizer.sha256 != stamp or tokenizer.specials != added:
            raise BadTokenizer(f"{folder}: was changed after it was saved (its sha256 differs). Restore the folder.")
        return tokenizer

    def save(self, folder: Path) -> None:
        """Write an HF folder that `transformers.AutoTokenizer.from_pretrained` opens offline.

        There, special spellings in text are read as specials unless `split_special_tokens=True` is given.
        """
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|bos|>",
            "eos_token": "<|end|>",
            "pad_token": "<|pad|>",
            "additional_special_tokens": [f"<|{role}|>" for role in CHAT_ROLES],
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "chat_template": CHAT_TEMPLATE,
            "lab_sha256": self.sha256,
        }
        names = ("bos_token", "eos_token", "pad_token", "additional_special_tokens")
        folder.mkdir(parents=True, exist_ok=True)
        special_tokens = {name: settings[name] for name in names}
        replace_file(folder / "tokenizer.json", self.to_tokenizers().to_str(pretty=True).encode())
        replace_file(folder / "special_tokens_map.json", json.dumps(special_tokens, indent=2).encode())
        replace_file(folder / "tokenizer_config.json", json.dumps(settings, indent=2).encode())

    def to_tokenizers(self) -> tokenizers.Tokenizer:
        """The same tokenizer as a `tokenizers.Tokenizer`.

        tiktoken merges any neighbours whose union is a token, by the token's rank; a merge list says so when it has
        every split of every token, in order of rank. Keeping only the merges met in training would not agree.
        """
        ranks = {token: rank for rank, token in enumerate(self._tokens)}
        spellings = ["".join(LETTER_OF_BYTE[byte] for byte in token) for token in self._tokens]
        merges = [
            (spelling[:cut], spelling[cut:])
            for token, spelling in zip(self._tokens, spellings, strict=True)
            for cut in range(1, len(token))
            if token[:cut] in ranks and token[cut:] in ranks
        ]
        vocabulary = {spelling: rank for rank, spelling in enumerate(spellings)}
        built = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
        built.pre_tokenizer = _splitter()
        built.decoder = decoders.ByteLevel()
        built.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIALS])
        return built

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text. A special's spelling is ordinary text here.

        Raises:
            BadTokenizer: the text has half of a surrogate pair, which no UTF-8 can hold.
        """
        ids: list[int] = self._encoding.encode_ordinary(_well_formed(text))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores when there is much of it.

        One share of the texts per core: tiktoken's own batch makes a task of every text, at 20 µs each more than most
        chat messages take.
        """
        cores = min(os.cpu_count() or 1, len(texts))
        if cores < 2 or sum(map(len, texts)) < 100_000:  # less than it costs to start threads
            return [self.encode(text) for text in texts]
        ids: list[list[int]] = [[]] * len(texts)
        with ThreadPoolExecutor(cores) as pool:
            shares = [texts[core::cores] for core in range(cores)]
            for core, encoded in enumerate(pool.map(lambda share: [self.encode(text) for text in share], shares)):
                ids[core::cores] = encoded
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens and, for each, the characters `text[start:stop]` that it covers or is a part of."""
        ids = self.encode(text)
        if not ids:
            return [], []
        is_first = (np.frombuffer(text.encode(), dtype=np.uint8) & 0xC0) != 0x80  # continuation bytes are 10xxxxxx
        character = np.cumsum(is_first) - 1
        stops = np.cumsum(self.byte_lengths[ids])
        starts = stops - self.byte_lengths[ids]
        spans = zip(character[starts].tolist(), (character[stops - 1] + 1).tolist(), strict=True)
        return ids, list(spans)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the tokens; bytes that are no UTF-8 (half a character) become U+FFFD, specials their spelling."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of the tokens.

        Raises:
            BadTokenizer: an id is outside the vocabulary.
        """
        plain = [int(token) for token in ids]
        wrong = [token for token in plain if not 0 <= token < self.vocab_size]
        if wrong:
            raise BadTokenizer(f"token id {wrong[0]} is outside the vocabulary 0..{self.vocab_size - 1}.")
        decoded: bytes = self._encoding.decode_bytes(plain)
        return decoded

    def chat(self, messages: Sequence[Mapping[str, str]], reply_as: str | None = None) -> tuple[list[int], list[str]]:
        """A conversation as `<|bos|> <|user|> text <|end|> <|assistant|> text <|end|> …`.

        Args:
            messages: each with `role` (one of `CHAT_ROLES`) and `content`.
            reply_as: a role whose turn is opened at the end, for generating it.

        Returns:
            The ids and, per id, the role whose turn it belongs to; `<|bos|>` belongs to none: "".
        """
        roles = [message["role"] for message in messages]
        ids, turns = self.lay_out(roles, self.encode_batch([message["content"] for message in messages]))
        if reply_as is not None:
            ids.append(self._marker(reply_as))
            turns.append((reply_as, 1))
        return ids, [role for role, length in turns for _ in range(length)]

    def lay_out(self, roles: Sequence[str], contents: Sequence[list[int]]) -> tuple[list[int], list[tuple[str, int]]]:
        """The chat format over contents that are encoded already: ids, and (role, number of ids) per turn."""
        ids, turns = [self.bos], [("", 1)]
        for role, content in zip(roles, contents, strict=True):
            ids += [self._marker(role), *content, self.end]
            turns.append((role, len(content) + 2))
        return ids, turns

    def _marker(self, role: str) -> int:
        if role not in CHAT_ROLES:
            raise BadTokenizer(f"chat message with unknown role {role!r}. Roles are: {', '.join(CHAT_ROLES)}.")
        return self.specials[f"<|{role}|>"]


def _splitter() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _bytes_of(spelling: str) -> bytes:
    return bytes(BYTE_OF_LETTER[letter] for letter in spelling)


def _well_formed(text: str) -> str:
    """The text itself. tiktoken would quietly put U+FFFD for a lone surrogate, and the text would not come back."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadTokenizer(
            f"text has the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, half of a "
            "character that was cut. Replace it, with U+FFFD for example."
        ) from None
    return text
