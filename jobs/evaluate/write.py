"""Results to files: JSON and both pages to the output folder, and the precisions' record beside the bundle."""

from __future__ import annotations

import logging
import os

from cluster.stores import Store, open_store
from jobs.evaluate.markdown import markdown_page
from jobs.evaluate.page import html_page
from jobs.evaluate.results import Evaluation
from models.bundle import Bundle
from models.fetch import cache_folder
from models.gates import GATES_FILE, Gate

log = logging.getLogger("verbatim.evaluate")

JSON_FILE, MARKDOWN_FILE, HTML_FILE = "evaluation.json", "evaluation.md", "evaluation.html"


def write_results(evaluation: Evaluation, bundle: Bundle, output: str) -> None:
    """Write everything; `evaluation.json` last, so that its presence means that all is there."""
    store = open_store(output)
    if evaluation.precisions:
        _write_records(evaluation, bundle, store)
    store.put(MARKDOWN_FILE, markdown_page(evaluation).encode())
    store.put(HTML_FILE, html_page(evaluation).encode())
    store.put(JSON_FILE, evaluation.to_json().encode())
    log.info("written: %s", store.uri(HTML_FILE))


def _write_records(evaluation: Evaluation, bundle: Bundle, store: Store) -> None:
    """Beside a bundle that lies in a folder here; of one out of the cache, to the output: its owner puts it there."""
    gate = Gate.load(bundle)
    for precision, record in evaluation.precisions.items():
        gate = gate.with_record(precision, record)
    is_ours = not bundle.folder.resolve().is_relative_to(cache_folder().resolve())
    if is_ours and os.access(bundle.folder, os.W_OK):
        log.info("written: %s", gate.write(bundle.folder))
    else:
        store.put(GATES_FILE, gate.text().encode())
        log.info("written: %s; put it beside the bundle's own files", store.uri(GATES_FILE))
