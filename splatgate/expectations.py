"""Expected values of the checks, with their sources. What a release would change stands here, not
in a test.
"""

from __future__ import annotations

#: Variables that hide GPUs from CUDA when they are set in an image: CUDA_VISIBLE_DEVICES takes
#: indices and UUIDs, and any other word ("all", "", "none") is "no device". Source: CUDA C++
#: Programming Guide, "Env Vars".
HIDING = ("CUDA_VISIBLE_DEVICES",)

#: What the NVIDIA container runtime needs to give a container its GPUs (contract 5.3).
VISIBLE = "NVIDIA_VISIBLE_DEVICES"
#: Every GPU, or some by index or UUID; anything else gives a container none. With one GPU each of
#: these is all of them. Source: NVIDIA Container Toolkit, "GPU Enumeration".
VISIBLE_GPUS = r"all|(\d+|GPU-[\w-]+)(,(\d+|GPU-[\w-]+))*"
CAPABILITIES = "NVIDIA_DRIVER_CAPABILITIES"
NEEDED_CAPABILITIES = {"compute", "utility"}

#: Exit statuses by which a shell or an engine says that nothing of ours ran (contract 1.1, 1.3),
#: and argparse's own for an argument that it does not know, such as SageMaker's word `train`.
NEVER_STARTED = {126: "not executable", 127: "not found"}
USAGE = 2
#: 128 + SIGKILL.
KILLED = 137

#: Longest time that a missing GPU may stay unreported, seconds: the time to import torch on a cold
#: instance disk with a wide margin, and far below the minutes that a fall-back to the CPU would
#: use.
PROMPT = 60.0

#: Seconds from SIGTERM to SIGKILL (contract 1.4).
GRACE = 120.0
#: How much later than that an ending may be noted: a look at the container, each second or so.
POLL = 2.0
#: Directories that a job must be able to write to (contract 2.1).
WRITABLE = (
    "/opt/ml/model",
    "/opt/ml/output",
    "/opt/ml/output/data",
    "/opt/ml/checkpoints",
    "/tmp",
)
#: Characters of /opt/ml/output/failure that DescribeTrainingJob returns (contract 1.3); 900 leaves
#: room for the prefix and suffix, of which it is not known whether they count.
FAILURE_LIMIT = 900

#: Agreement of kernels with their float64 reference: images absolute, in all but one pixel of a
#: thousand (where a Gaussian's alpha is at 1/255, float32 may leave it out), gradients relative by
#: tensor. Sums of float32 in another order measure 1e-6 and 1e-5.
IMAGE_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
#: How far twenty steps of Adam may end apart, as a share of the way: the first steps divide by the
#: gradient's own size, so that the smallest gradients' rounding counts in full (measured: 8e-4).
UPDATE_TOLERANCE = 1e-2
#: Bytes of a GPU's stated memory that no job gets: a T4 of 16 GiB shows 15, and driver, context and
#: fragments take another.
GPU_RESERVED = 2 * 2**30
#: How many times the GPU memory that a training took the model may have reckoned: above, it refuses
#: scenes that would fit.
RECKONED = 4.0
#: Shares of the GPU memory that a training took which leave it short once, and at every step.
SHORT, STARVED = 0.67, 0.1
#: GPU memory that other programs of the machine may take meanwhile; a context alone takes five
#: times as much.
GPU_LEFT = 64 * 2**20
#: Words by which a log says that memory ran out.
RAN_OUT = r"(?i)memory ran out|out of memory|\boom\b"
#: Agreement between reported PSNR and the suite's own rendering of the artefact, dB. The same
#: formation in float32 on two implementations differs by some hundredths; a tenth is left for the
#: trainer's own cut-offs.
PSNR_TOLERANCE = 0.1
#: Likewise of SSIM, which takes values from -1 to 1; the two agree to 1e-6 on our own trainer, and
#: Gaussian windows of other libraries differ at the border by some thousandths.
SSIM_TOLERANCE = 0.01
#: A floor that means something: better than the best trivial answer by this, dB.
PSNR_MARGIN = 0.5

#: Above this no PSNR is believed, dB: an error of 0.8 grey levels, below what JPEG itself leaves in
#: a photograph (K20 reported 54 dB at its first step).
PSNR_POSSIBLE = 50.0
#: Between its first and its last line a training moves its PSNR by more than this, dB.
PSNR_FLAT = 0.1
#: Longest side of the views at which a model of shuffled photographs is measured, pixels: it shows
#: nothing, at any size.
SHUFFLED_SIDE = 160
#: Share of Gaussians that training must have moved or recoloured: one step of any optimiser moves
#: nearly all of them, and what is exported as it came moves none.
MOVED = 0.5
#: How much better the model's file may render under another reading than the layout's, dB: where a
#: property carries nothing (no bands yet, round Gaussians) both render alike.
OTHER_READING = 0.1
#: Share of Gaussians that may lie further from the points' middle than ten times their spread:
#: skies and floaters are few.
FAR, FAR_TIMES = 0.5, 10.0

#: Parameters whose effect shows in what a job leaves (`splatgate.subject.Effects`).
EFFECTS = ("iterations", "gaussians", "image_size", "sh_degree")
#: Kinds of values that can be read and cannot be meant.
REFUSED_VALUES = ("out-of-range", "contradiction")
#: Moments at which a job is stopped, beside the middle of training.
STOPS = ("start", "loading", "checkpoint", "export")
#: Variant of a scene (`splatgate.sagemaker.variants`) → classes of `[errors]` in a subject profile
#: that name its cause, and words that do where the profile has no such class.
UNSOUND = {
    "no-model": (("scene_layout",), "sparse|colmap|model"),
    "no-photos": (("scene_layout", "scene_images"), "image|photo"),
    "cut-model": (("scene_format",), "points3D|colmap|model"),
    "no-focal-length": (("scene_camera",), "camera|focal|intrinsic"),
    "no-points": (("scene_points",), "point"),
    "extension-twice": (("scene_images",), "image|photo"),
    "photo-cut": (("scene_images",), "image|photo"),
    "other-photos": (("scene_images",), "image|photo|size|shape"),
    "archive-cut": (("archive",), "archive|unpack|zip|sparse|model"),
}

#: From the container's start to the first line of output, seconds: Python and its imports on a
#: cold disk, with a wide margin. A person who sees nothing longer than that stops the job (K28).
FIRST_LINE = 60.0
#: Name and value that stand for a secret in a job's environment; no line may repeat it.
CANARY = {"WANDB_API_KEY": "canary-5f2c9a71d4e84b0c9d3e"}
#: Minutes that must be left between the trainer's own limit and MaxRuntimeInSeconds: to end the
#: step, export, evaluate (contract 1.4, K44).
MINUTES_LEFT = 5.0
#: Bytes a second of download and of packing and upload, which are left as well: whether
#: MaxRuntimeInSeconds counts them is not documented. What gzip deflates on one core.
TRANSFER = 25e6
#: Bytes of a Gaussian in the .ply: 62 floats.
MODEL_GAUSSIAN = 248
#: What of an instance a job fills (`splatgate.sagemaker.capacity`).
CAPACITIES = ("memory", "GPU memory", "disk")
#: The smallest disk that a job can start on, bytes: folders and configuration need some of it.
LEAST_ROOM = 400_000
#: Branches of the driver on SageMaker's training hosts, which AWS does not publish (contract 5.1):
#: its own images of CUDA 12 train on all families, and need the first; its tests of CUDA 13 images
#: on g4dn hint at the second.
HOST_DRIVER, HOST_DRIVER_SEEN = 525, 580

#: The viewer as one page that holds the model. Too large to keep as evidence.
VIEWER = "html"
#: The compression stage's tool, and the formats that it hands on. Pinned in requirements/node.
COMPRESSOR = "@playcanvas/splat-transform"
FORMATS = ("compressed.ply", "sog", "spz", VIEWER)
#: The format that is read back to see what compression cost.
READ_BACK = "compressed.ply"
#: Lowest major version of Node that the tool names (`engines` in its package.json).
NODE = 18
#: Keys that the SageMaker SDK adds to the hyperparameters on its own (contract 2.2).
INJECTED = {
    "sagemaker_program": "train.py",
    "sagemaker_container_log_level": "20",
    "sagemaker_job_name": "splatgate-dialect",
    "sagemaker_region": "us-west-2",
}
#: What compression may cost, dB. Colours and opacities get 8 bits, positions 11, each between the
#: extremes of 256 neighbours: measured on 3,500 Gaussians, its error lies 40 to 45 dB below white
#: (the more there are, the nearer the neighbours) and costs a model of 20 dB nothing (-0.03); one
#: of 27 dB would lose 0.2. More means that extremes have used up the range.
COMPRESSION_LOSS = 0.5

#: A package manager's cache below this is its empty skeleton, not worth a finding (bytes).
CACHE_BUDGET = 10**7

#: hadolint's rules that say nothing here, each with the reason.
HADOLINT_LEFT_OUT = {
    "DL3029": "the guide itself asks for linux/amd64 in FROM; another platform has its own check",
    "DL3013": "unpinned requirements have checks of their own, which also read logs and history",
    "DL3004": "sudo as root does no harm",
    "DL3020": "ADD copies a local file as COPY does",
    "DL4000": "MAINTAINER is deprecated, and without effect",
}

#: Media types of one image's manifest. SageMaker is known to run the first; of the second is known
#: only that hosting refuses it, so that one in OCI's form should be proved by a job (contract
#: section 4). Anything else is a list of images, or no image.
MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
#: Tags that by their name move on with the next build.
MOVING_TAGS = (
    r"latest|main|master|trunk|head|edge|nightly|dev(el(op)?)?|stag(e|ing)|test|stable|current|"
    r"prod(uction)?|release"
)

#: Prefix of the OCI schema's labels, and every name that it defines (image-spec, annotations.md).
OCI = "org.opencontainers.image."
OCI_LABELS = {
    *("created", "authors", "url", "documentation", "source", "version", "revision", "vendor"),
    *("licenses", "ref.name", "title", "description", "base.digest", "base.name"),
}
#: Whatever is asked about an old job starts with "which image is this, made from what": a name, and
#: a version or a revision. A build outside a git checkout has no revision.
OCI_TITLE, OCI_ORIGIN = "title", ("version", "revision")

#: Setuid and setgid programs of the distributions' own packages. Anything else came with the image.
#: Source: CIS Docker Benchmark 4.8; `find / -perm /6000` in debian:trixie-slim.
SETUID = {
    # passwd, util-linux, PAM: the base itself.
    *("chage", "chfn", "chsh", "expiry", "gpasswd", "mount", "newgrp", "passwd", "su", "umount"),
    *("newgidmap", "newuidmap", "wall", "write", "write.ul", "unix_chkpwd"),
    *("pam_extrausers_chkpwd", "pam_timestamp_check", "bbsuid"),
    # OpenSSH, D-Bus, cron, FUSE, iputils, polkit, sudo, liblockfile, libutempter.
    *("ssh-agent", "ssh-keysign", "dbus-daemon-launch-helper", "crontab", "fusermount"),
    *("fusermount3", "ping", "pkexec", "polkit-agent-helper-1", "sudo", "dotlockfile", "utempter"),
}

#: What a package index publishes is no secret, test keys of packages included; nor is the
#: certificate that Debian's ssl-cert makes for localhost.
PUBLISHED = ("/site-packages/", "/dist-packages/", "/etc/ssl/private/ssl-cert-snakeoil.key")
