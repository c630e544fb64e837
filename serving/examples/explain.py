"""POST /v1/explain: which words move a score. `python -m serving.examples.explain`"""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("VERBATIM_URL", "http://127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.environ.get('VERBATIM_KEY', 'none')}"}


def main() -> None:
    """Print the five words that a score would lose or gain most without."""
    asked = {"model": "starter", "text": "Fast delivery, but the battery is poor.", "head": "sentiment", "k": 5}
    answer = httpx.post(f"{URL}/v1/explain", json=asked, headers=HEADERS)
    answer.raise_for_status()
    told = answer.json()
    print(told["column"], round(told["score"], 3))
    for span in told["attributions"]:
        print(f"{span['effect']:+.3f} {span['text']}")


if __name__ == "__main__":
    main()
