"""People who talk with a server, as a process of their own: `python -m tests.benchmarks.talkers`, no torch.

A line of JSON on stdin (url, token, people, tokens, seconds) has them talk for so long; a line of JSON on stdout says what
came of it once the last answer has come. The end of stdin ends it.
"""

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

PATIENCE = 120.0
QUESTION = "The old farmer"
AGAIN_SECONDS = 0.05  # after a refusal


class Person(threading.Thread):
    """Asks again and again until it is time to go; asks once more when told to come again.

    Attributes:
        answers: of each that came whole: id, step, seed, text, and seconds until its first words.
        refused: how often it was told (429) to come again; errors: whatever else went wrong.
    """

    def __init__(self, url: str, token: str, seed: int, tokens: int, until: float) -> None:
        super().__init__(daemon=True)
        self.url, self.token, self.seed, self.tokens, self.until = url, token, seed, tokens, until
        self.answers: list[dict[str, Any]] = []
        self.refused, self.errors = 0, list[str]()

    def run(self) -> None:
        while time.monotonic() < self.until:
            try:
                self.ask()
            except urllib.error.HTTPError as error:
                if error.code == 429:
                    self.refused += 1
                    time.sleep(AGAIN_SECONDS)
                else:
                    self.errors.append(f"{error.code}: {error.read()[:300]!r}")
            except Exception as error:
                self.errors.append(repr(error))

    def ask(self) -> None:
        self.seed += 1
        body: dict[str, Any] = {"model": "lab", "stream": True, "seed": self.seed, "max_tokens": self.tokens}
        body["messages"] = [{"role": "user", "content": QUESTION}]
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), headers)
        asked, first, text = time.monotonic(), None, ""
        last: dict[str, Any] = {}
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            for line in answer:
                if line.startswith(b"data: [DONE]"):
                    whole = {"id": last["id"], "step": int(last["system_fingerprint"].removeprefix("step-"))}
                    self.answers.append(whole | {"seed": self.seed, "text": text, "first_seconds": first})
                    return
                if line.startswith(b"data: "):
                    last = json.loads(line[6:])
                    said = last["choices"][0]["delta"].get("content") or ""
                    if said and first is None:
                        first = time.monotonic() - asked
                    text += said
        raise RuntimeError(f"the answer has no end: {text[-80:]!r}, {last}")


def talk(url: str, token: str, people: int, tokens: int, seconds: float, seed: int = 0) -> dict[str, Any]:
    """So many at once for so long. Seeds count from `seed` on, a thousand a person."""
    until = time.monotonic() + seconds
    persons = [Person(url, token, seed + 1000 * place, tokens, until) for place in range(people)]
    for person in persons:
        person.start()
    for person in persons:
        person.join(seconds + people * PATIENCE)
    return {
        "answers": [answer for person in persons for answer in person.answers],
        "refused": sum(person.refused for person in persons),
        "errors": [error for person in persons for error in person.errors],
    }


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(talk(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
