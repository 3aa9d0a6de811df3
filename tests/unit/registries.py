"""A registry on loopback, Debian's docker-registry, and what is pushed to it without an engine."""

import hashlib
import json
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import requests

from splatgate.container.distribution import OCI, SCHEMA2

CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
INSTALLED = shutil.which("docker-registry") is not None
IMAGE = {SCHEMA2: "application/vnd.docker", OCI: "application/vnd.oci"}


@contextmanager
def running(folder):
    """Run a registry; yields its host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "registry.yml"
    config.write_text(CONFIG.format(root=folder / "data", port=port))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    ended = process.poll() is not None or time.monotonic() > deadline
                    if ended:
                        raise RuntimeError((folder / "registry.log").read_text()) from None
                    time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


class Repository:
    """Pushes blobs and manifests by the API alone."""

    def __init__(self, host, name):
        self.ref = f"{host}/{name}"
        self.url = f"http://{host}/v2/{name}"
        self.http = requests.Session()
        self.http.trust_env = False

    def blob(self, data):
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        begun = self.http.post(f"{self.url}/blobs/uploads/")
        begun.raise_for_status()
        put = self.http.put(begun.headers["Location"], params={"digest": digest}, data=data)
        put.raise_for_status()
        return {"digest": digest, "size": len(data)}

    def manifest(self, document, tag):
        data = json.dumps(document, indent=1).encode()
        kind = {"Content-Type": document["mediaType"]}
        self.http.put(f"{self.url}/manifests/{tag}", data=data, headers=kind).raise_for_status()
        return {
            "mediaType": document["mediaType"],
            "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
            "size": len(data),
        }

    def image(self, tag, kind=SCHEMA2, **config):
        """Push an image of one layer; its descriptor and its id."""
        settings = {"os": "linux", "architecture": "amd64", **config}
        made = self.blob(json.dumps(settings).encode())
        layer = self.blob(b"layer")
        prefix = IMAGE[kind]
        names = (
            (".container.image.v1+json", ".image.rootfs.diff.tar.gzip")
            if kind == SCHEMA2
            else (".image.config.v1+json", ".image.layer.v1.tar+gzip")
        )
        document = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {"mediaType": prefix + names[0], **made},
            "layers": [{"mediaType": prefix + names[1], **layer}],
        }
        return self.manifest(document, tag), made["digest"]
