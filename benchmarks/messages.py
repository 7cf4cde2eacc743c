"""Messages as agents have them: about 300 bytes of JSON each, of the four shapes that most histories are made of."""

from __future__ import annotations

import random
from typing import Any, Final

_PROSE: Final = (
    "the order was shipped on Monday and should arrive by Friday at your address in Zürich unless customs keeps it"
    " longer than usual — please check “tracking” for details or ask again tomorrow when our team is back"
)
_WORDS: Final = _PROSE.split()


def messages(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """So many messages, the same ones for the same seed.

    >>> [sorted(message) for message in messages(2)]
    [['content', 'role'], ['content', 'id', 'role', 'status', 'type']]
    """
    chance = random.Random(seed)
    return [_SHAPES[place % len(_SHAPES)](chance, place) for place in range(count)]


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words))


def _user(chance: random.Random, _: int) -> dict[str, Any]:
    return {"role": "user", "content": _text(chance, 46)}


def _assistant(chance: random.Random, place: int) -> dict[str, Any]:
    text = {"type": "output_text", "text": _text(chance, 22), "annotations": [], "logprobs": []}
    return {
        "id": f"msg_{chance.getrandbits(96):024x}{place}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }


def _call(chance: random.Random, place: int) -> dict[str, Any]:
    return {
        "id": f"fc_{chance.getrandbits(96):024x}{place}",
        "type": "function_call",
        "status": "completed",
        "name": "find_order",
        "call_id": f"call_{place}",
        "arguments": f'{{"order": {place}, "note": "{_text(chance, 26)}"}}',
    }


def _output(chance: random.Random, place: int) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{place}", "output": _text(chance, 40)}


_SHAPES: Final = (_user, _assistant, _call, _output)
