import random

import pytest

from lab.tokenizer import Tokenizer
from tests.probes.behaviour.texts import conversations, speech_passages


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte BPE of the default corpus, 1,024 ids: small, so that periods of words are long in tokens."""
    chosen = random.Random(0)
    texts = [document.text for document in chosen.sample(conversations(), 100)]
    return Tokenizer.train([*texts, *chosen.sample(speech_passages(), 100)], 1_024)
