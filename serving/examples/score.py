"""POST /v1/score: scores of some texts, with ids of your own. `python -m serving.examples.score`"""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("VERBATIM_URL", "http://127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.environ.get('VERBATIM_KEY', 'none')}"}


def main() -> None:
    """Print the sentiment of two texts."""
    texts = ["Fast delivery, but the battery is poor.", {"id": "r-2", "text": "质量很好，下次再买"}]
    answer = httpx.post(f"{URL}/v1/score", json={"model": "starter", "texts": texts}, headers=HEADERS)
    answer.raise_for_status()
    for result in answer.json()["results"]:
        print(result.get("id"), result["scores"]["sentiment"], round(result["scores"]["stars"], 1))


if __name__ == "__main__":
    main()
