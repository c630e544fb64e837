"""GET /healthz, /readyz and /metrics: what an operator asks. `python -m serving.examples.operate`"""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("VERBATIM_URL", "http://127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.environ.get('VERBATIM_KEY', 'none')}"}


def main() -> None:
    """Print whether it lives, whether it is ready, and the tokens scored."""
    for path in ("/healthz", "/readyz"):
        print(path, httpx.get(f"{URL}{path}").json()["status"])
    figures = httpx.get(f"{URL}/metrics", headers=HEADERS).raise_for_status().text
    print(*(line for line in figures.splitlines() if line.startswith("verbatim_tokens_in_flight")), sep="\n")


if __name__ == "__main__":
    main()
