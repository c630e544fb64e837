"""POST /v1/embeddings: vectors, as OpenAI's clients ask for them, of a bundle with an embedding head.

`VERBATIM_MODEL=name python -m serving.examples.embeddings`
"""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("VERBATIM_URL", "http://127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.environ.get('VERBATIM_KEY', 'none')}"}


def main() -> None:
    """Print how near two texts are to a third."""
    texts = ["The battery is poor", "电池太差", "Lovely colour"]
    asked = {"model": os.environ["VERBATIM_MODEL"], "input": texts}
    answer = httpx.post(f"{URL}/v1/embeddings", json=asked, headers=HEADERS)
    answer.raise_for_status()
    first, *others = (one["embedding"] for one in answer.json()["data"])
    for text, vector in zip(texts[1:], others, strict=True):
        print(text, round(sum(a * b for a, b in zip(first, vector, strict=True)), 3))


if __name__ == "__main__":
    main()
