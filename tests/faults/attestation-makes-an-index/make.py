"""Let the registry serve an index of the image and an attestation."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1]) / "registry.json"
seen = json.loads(path.read_text())
kind = "application/vnd.oci.image.manifest.v1+json"
served = seen["image"]["served"]
image = {"digest": served["digest"], "media_type": kind, "image_id": served["image_id"]}
seen["image"]["served"] |= {
    "digest": "sha256:" + 64 * "3",
    "media_type": "application/vnd.oci.image.index.v1+json",
    "image_id": None,
    "children": [
        {**image, "platform": "linux/amd64"},
        {
            "digest": "sha256:" + 64 * "4",
            "media_type": kind,
            "platform": "unknown/unknown",
            "attests": "attestation-manifest",
        },
    ],
}
seen["tags"] = dict.fromkeys(seen["tags"], seen["image"]["served"]["digest"])
path.write_text(json.dumps(seen))
