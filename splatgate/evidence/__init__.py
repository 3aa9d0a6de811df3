"""Evidence: what was seen of an image, as frozen records that any machine can judge again.

Nothing here looks and nothing here judges. Collectors (``splatgate.container``,
``splatgate.sagemaker``) make these records; checks read them. A folder of evidence holds::

    evidence.json              schema, image id, run, machine, scene
    image.json                 Image
    registry.json              Registry, what a registry serves, when the image was pushed
    layers.json                LayerFiles, one for each layer
    contents.json              Contents, what the layers hold
    Dockerfile                 what the image was made from, where it is at hand
    hadolint.json              Lint, what hadolint says of it
    build.json  build.log      the build record and its log, when the image was built here
    lock/*.txt                 the locks of the image, when it was built here from them
    sbom.cdx.json              what is installed, as CycloneDX
    container/facts.json       Facts, what probe.py printed inside the container
    container/hardened.json    Command, the start on a read-only root
    container/commands.jsonl   Command, one line for each command that testinfra ran
    pipeline.json              Pipeline
    jobs/KEY/job.json          Job
    jobs/KEY/log.txt           the job's log, one line for each line of output
    jobs/KEY/model/...         the members of model.tar.gz
    jobs/KEY/gpu.json          Use, where the job had a GPU
    gpu/kernels.json           what the trainer's kernels report of themselves
    jobs/KEY/compressed.json   Compression, what the next stage's tool made of the model
    jobs/KEY/compressed/...    what it wrote

All paths inside evidence are relative to its folder, with ``/``.
"""

from splatgate.evidence.container import (
    Command,
    Contents,
    Distribution,
    Facts,
    Files,
    Import,
    Library,
    Package,
    Source,
)
from splatgate.evidence.files import (
    BadInput,
    T,
    from_json,
    read,
    to_json,
    unwritable,
    write,
    write_bytes,
)
from splatgate.evidence.header import SCHEMA, Header, Machine, Origin
from splatgate.evidence.image import Image, Layer, LayerFiles, Leftover, LeftoverKind, Lint, Remark
from splatgate.evidence.job import Attempt, Compression, Job, Limits, LogLine, Member, ToolRun, Use
from splatgate.evidence.pipeline import Pipeline
from splatgate.evidence.registry import Answer, Child, Registry, Served

__all__ = [
    "SCHEMA",
    "Answer",
    "Attempt",
    "BadInput",
    "Child",
    "Command",
    "Compression",
    "Contents",
    "Distribution",
    "Facts",
    "Files",
    "Header",
    "Image",
    "Import",
    "Job",
    "Layer",
    "LayerFiles",
    "Leftover",
    "LeftoverKind",
    "Library",
    "Limits",
    "Lint",
    "LogLine",
    "Machine",
    "Member",
    "Origin",
    "Package",
    "Pipeline",
    "Registry",
    "Remark",
    "Served",
    "Source",
    "T",
    "ToolRun",
    "Use",
    "from_json",
    "read",
    "to_json",
    "unwritable",
    "write",
    "write_bytes",
]
