"""Verb ``schema``: the JSON Schema of what a verb prints, made from its type."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

#: Verb, or kind of record: module and type of its JSON.
TYPES = {
    "judge": "splatgate.record:Record",
    "faults": "splatgate.proof.report:Report",
    "image": "splatgate.container.build:BuildRecord",
    "pipeline": "splatgate.pipeline.judge:Verdict",
    "scene": "splatgate.scene.judge:SceneVerdict",
    "splats": "splatgate.scene.truth:SplatsVerdict",
    "gate": "splatgate.signoff.document:Signoff",
    "diagnose": "splatgate.diagnose.cli:Report",
    "evidence": "splatgate.evidence:Header",
    "evidence-image": "splatgate.evidence:Image",
    "evidence-job": "splatgate.evidence:Job",
}

#: What a verb adds to its record as it prints it.
ADDED = {"pipeline": {"ok": {"type": "boolean"}, "conclusion": {"type": "string"}}}


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one of ``TYPES``. Fields may be added to what it names."""
    module, _, kind = TYPES[name].partition(":")
    found = msgspec.json.schema(getattr(importlib.import_module(module), kind))
    found["$defs"][kind]["properties"].update(ADDED.get(name, {}))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def main(argv: Sequence[str]) -> int:
    """Verb ``schema``."""
    parser = argparse.ArgumentParser(
        prog="splatgate schema",
        description="Print the JSON Schema of what a verb prints with --json, or of a record of "
        "evidence.",
    )
    parser.add_argument("name", choices=TYPES, metavar="VERB", help=", ".join(TYPES))
    sys.stdout.write(json.dumps(schema(parser.parse_args(argv).name), indent=1) + "\n")
    return 0
