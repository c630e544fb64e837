"""GET /v1/models: what is served, and what each model can say. `python -m serving.examples.models`"""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("VERBATIM_URL", "http://127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.environ.get('VERBATIM_KEY', 'none')}"}


def main() -> None:
    """Print every version of every model with its heads."""
    answer = httpx.get(f"{URL}/v1/models", headers=HEADERS)
    answer.raise_for_status()
    for model in answer.json()["data"]:
        heads = [head["name"] for head in model["heads"] or ()]  # null until a replica has answered
        print(model["id"], model["version"], model["model"], heads)


if __name__ == "__main__":
    main()
