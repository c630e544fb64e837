"""POST /v1/jobs, then GET and DELETE: a list scored by the scoring job. `python -m serving.examples.job`"""

from __future__ import annotations

import json
import os
import time

import httpx

URL = os.environ.get("VERBATIM_URL", "http://127.0.0.1:8000")
HEADERS = {"Authorization": f"Bearer {os.environ.get('VERBATIM_KEY', 'none')}"}


def main() -> None:
    """Hand a list in, wait for it, print its results."""
    with httpx.Client(base_url=URL, headers=HEADERS, timeout=60) as client:
        asked = {"model": "starter", "texts": ["Fast delivery", {"id": "r-2", "text": "质量很差"}, ""]}
        job = client.post("/v1/jobs", json=asked).raise_for_status().json()
        while job["state"] in ("queued", "running"):
            time.sleep(1)
            job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
        print(job["state"], job["message"] or job["manifest"]["rows_scored"])
        for line in client.get(f"/v1/jobs/{job['id']}/results").raise_for_status().iter_lines():
            result = json.loads(line)
            print(result["place"], result["scores"]["sentiment"] if "scores" in result else result["error"]["code"])
        client.delete(f"/v1/jobs/{job['id']}").raise_for_status()  # cancels; one that has ended stays as it is


if __name__ == "__main__":
    main()
