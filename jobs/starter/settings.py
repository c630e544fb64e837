"""Settings of the preparation: where the public sets lie, and the files that say what is to be learnt from them."""

from __future__ import annotations

from pydantic import Field

from cluster.config import Settings


class StarterSettings(Settings):
    """What `python -m jobs.starter` can be told."""

    data: str = Field(min_length=1, description="folder that holds feedback/<set>.parquet")
    work: str = Field(min_length=1, description="folder of what is written")
    taxonomy: str = "jobs/starter/taxonomy.yaml"
    intents: str = "jobs/starter/intents.yaml"
    urgency: str = "jobs/starter/urgency.yaml"
    phrases: str = "jobs/starter/phrases.yaml"
    max_chars: int = Field(default=2000, ge=100, description="of a text; the trunk reads 256 tokens")
    max_rows: int | None = Field(default=None, ge=1, description="of each set, evenly spread: for a trial")
    seed: int = Field(default=20261122, ge=0)
