"""POST /v1/score as NDJSON: a text a line in, a result a line out, in order. `python -m serving.examples.stream`

The service answers while it still reads, and reads no further than a client lets it answer. httpx sends all before it
reads, which is right for some thousand texts; for a list without end take a client that does both at once (aiohttp).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx

URL = os.environ.get("VERBATIM_URL", "http://127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.environ.get('VERBATIM_KEY', 'none')}"}


def lines(num_texts: int) -> Iterator[bytes]:
    """Make the body a line at a time; a line is a string, or an object with id and text."""
    for number in range(num_texts):
        yield json.dumps({"id": str(number), "text": f"The phone died after {number} days."}).encode() + b"\n"


def main() -> None:
    """Print each result as it comes."""
    headers = {**HEADERS, "Content-Type": "application/x-ndjson"}
    query = {"model": "starter", "heads": "sentiment"}
    with httpx.stream(
        "POST", f"{URL}/v1/score", params=query, content=lines(300), headers=headers, timeout=60
    ) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            result = json.loads(line)
            print(result["id"], result["error"]["code"] if "error" in result else result["scores"]["sentiment"])


if __name__ == "__main__":
    main()
