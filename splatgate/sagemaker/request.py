"""A training job's request, in CreateTrainingJob's shape, and the name that memoises its result."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splatgate.evidence import BadInput
from splatgate.sagemaker.reader import Reader, show
from splatgate.sagemaker.validate import validate as validate

#: The members of CreateTrainingJob (service model of botocore 1.43); what else a file holds is a
#: description's.
MEMBERS = frozenset(
    """
    AlgorithmSpecification CheckpointConfig DebugHookConfig DebugRuleConfigurations
    EnableInterContainerTrafficEncryption EnableManagedSpotTraining EnableNetworkIsolation
    Environment ExperimentConfig HyperParameters InfraCheckConfig InputDataConfig MlflowConfig
    ModelPackageConfig OutputDataConfig ProfilerConfig ProfilerRuleConfigurations
    RemoteDebugConfig ResourceConfig RetryStrategy RoleArn ServerlessJobConfig
    SessionChainingConfig StoppingCondition Tags TensorBoardOutputConfig TrainingJobName VpcConfig
    """.split()  # noqa: SIM905
)
#: Members that only a description has; a file with none of these must hold nothing but MEMBERS.
DESCRIBED = frozenset({"TrainingJobArn", "TrainingJobStatus", "CreationTime"})
#: Contract 1.4: one day.
DEFAULT_MAX_RUNTIME = 86400
DEFAULT_REGION = "us-west-2"
DEFAULT_ACCOUNT = "123456789012"
DEFAULT_CHECKPOINTS = "/opt/ml/checkpoints"
#: A request file is a page of text; more is some other file.
MAX_FILE = 4 * 1024**2
CHANNEL_NAME = re.compile(r"[A-Za-z0-9.\-_]{1,64}")
ENVIRONMENT_KEY = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,511}")
JOB_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")


@dataclass(frozen=True)
class Channel:
    """One input channel. ``mode`` is File, FastFile or Pipe; ``uri`` is empty unless it is S3."""

    name: str
    mode: str
    uri: str
    s3_type: str
    distribution: str
    content_type: str | None = None
    record_wrapper: str = "None"


@dataclass(frozen=True)
class Metric:
    """One MetricDefinition: the first group of ``regex`` is the value."""

    name: str
    regex: str


@dataclass(frozen=True)
class Request:
    """One training job's request; ``raw`` is the CreateTrainingJob document it was read from.

    ``entrypoint`` and ``arguments`` are None where the request does not give them. Times are in
    seconds.
    """

    name: str
    image: str
    hyperparameters: Mapping[str, str]
    environment: Mapping[str, str]
    channels: tuple[Channel, ...]
    instance_type: str
    volume_gb: int
    max_runtime: int
    isolated: bool
    compression: str
    entrypoint: tuple[str, ...] | None = None
    arguments: tuple[str, ...] | None = None
    metrics: tuple[Metric, ...] = ()
    checkpoints: str = DEFAULT_CHECKPOINTS
    #: CheckpointConfig.S3Uri. Empty: nothing of that folder outlives its container.
    checkpoint_uri: str = ""
    spot: bool = False
    #: MaxWaitTimeInSeconds of a spot job.
    max_wait: int | None = None
    #: RetryStrategy.MaximumRetryAttempts; 0 without one.
    retries: int = 0
    region: str = DEFAULT_REGION
    account: str = DEFAULT_ACCOUNT
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        """The job's ARN, as in TRAINING_JOB_ARN."""
        return f"arn:aws:sagemaker:{self.region}:{self.account}:training-job/{self.name}"


def parse(document: object, where: str = "request") -> Request:
    """Read a request from CreateTrainingJob's shape or from what describe-training-job printed.

    Raises:
        BadInput: a member is missing, misspelt or of the wrong type; one line that names it.
    """
    reader = Reader(where)
    if not isinstance(document, dict):
        raise BadInput(
            f"{where}: {show(document)} is not a CreateTrainingJob request (a JSON object)"
        )
    if not DESCRIBED & document.keys() and (unknown := sorted(document.keys() - MEMBERS)):
        raise reader.bad(unknown[0], "CreateTrainingJob has no such member; check the spelling")
    raw = {key: value for key, value in document.items() if key in MEMBERS and value is not None}
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadInput(
            f"{where}: half a character (a lone surrogate, \\ud800…) in a text"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{where}: cannot be written as JSON: {error}") from None
    name = reader.get(raw, "TrainingJobName", str, "")
    if not JOB_NAME.fullmatch(name):
        raise reader.bad(
            "TrainingJobName", f"{show(name)} is not 1-63 letters, digits and inner hyphens"
        )
    algorithm = reader.get(raw, "AlgorithmSpecification", dict, {})
    resources = reader.get(raw, "ResourceConfig", dict, {})
    instance_type = reader.get(resources, "ResourceConfig.InstanceType", str, "")
    if not instance_type:
        raise reader.bad("ResourceConfig.InstanceType", "missing; give one such as ml.g4dn.xlarge")
    if (count := reader.get(resources, "ResourceConfig.InstanceCount", int, 1)) != 1:
        raise reader.bad(
            "ResourceConfig.InstanceCount", f"{count}; one instance is emulated, give 1"
        )
    stopping = reader.get(raw, "StoppingCondition", dict, {})
    limit = reader.get(stopping, "StoppingCondition.MaxRuntimeInSeconds", int, DEFAULT_MAX_RUNTIME)
    if limit < 1:
        raise reader.bad("StoppingCondition.MaxRuntimeInSeconds", f"{limit} is less than 1")
    output = reader.get(raw, "OutputDataConfig", dict, {})
    compression = reader.get(output, "OutputDataConfig.CompressionType", str, "GZIP")
    if compression not in ("GZIP", "NONE"):
        raise reader.bad(
            "OutputDataConfig.CompressionType", f"{show(compression)}; give GZIP or NONE"
        )
    environment = reader.strings(raw, "Environment")
    for key in environment:
        if not ENVIRONMENT_KEY.fullmatch(key):
            raise reader.bad("Environment", f"{show(key)} is not a variable's name")
    image = reader.get(algorithm, "AlgorithmSpecification.TrainingImage", str, "")
    region, account = _place(reader, document, raw, image)
    return Request(
        name=name,
        image=image,
        hyperparameters=reader.strings(raw, "HyperParameters"),
        environment=environment,
        channels=_channels(reader, raw, algorithm),
        instance_type=instance_type,
        volume_gb=reader.get(resources, "ResourceConfig.VolumeSizeInGB", int, 0),
        max_runtime=limit,
        isolated=reader.get(raw, "EnableNetworkIsolation", bool, False),
        compression=compression,
        entrypoint=reader.words(algorithm, "AlgorithmSpecification.ContainerEntrypoint"),
        arguments=reader.words(algorithm, "AlgorithmSpecification.ContainerArguments"),
        metrics=_metrics(reader, algorithm),
        checkpoints=_checkpoints(reader, raw),
        checkpoint_uri=reader.get(
            reader.get(raw, "CheckpointConfig", dict, {}), "CheckpointConfig.S3Uri", str, ""
        ),
        spot=reader.get(raw, "EnableManagedSpotTraining", bool, False),
        max_wait=reader.get(stopping, "StoppingCondition.MaxWaitTimeInSeconds", int, None),
        retries=reader.get(
            reader.get(raw, "RetryStrategy", dict, {}), "RetryStrategy.MaximumRetryAttempts", int, 0
        ),
        region=region,
        account=account,
        raw=raw,
    )


def _place(
    reader: Reader, document: Mapping[str, Any], raw: Mapping[str, Any], image: str
) -> tuple[str, str]:
    """Region and account of the job: from its ARN, its registry or its role, in this order."""
    arn = reader.get(document, "TrainingJobArn", str, "").split(":")
    if len(arn) >= 6:
        return arn[3], arn[4]
    role = reader.get(raw, "RoleArn", str, "").split(":")
    account = role[4] if len(role) >= 6 and role[4] else DEFAULT_ACCOUNT
    registry = re.match(r"\d{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/", image)
    return (registry[1] if registry else DEFAULT_REGION), account


def _channels(
    reader: Reader, raw: Mapping[str, Any], algorithm: Mapping[str, Any]
) -> tuple[Channel, ...]:
    mode = reader.get(algorithm, "AlgorithmSpecification.TrainingInputMode", str, "File")
    found: list[Channel] = []
    for number, entry in enumerate(reader.get(raw, "InputDataConfig", list, [])):
        path = f"InputDataConfig[{number}]"
        if not isinstance(entry, dict):
            raise reader.bad(path, f"{show(entry)} is not an object")
        name = reader.get(entry, f"{path}.ChannelName", str, "")
        # "." and ".." fit the service's pattern, but name no folder below input/data.
        if not CHANNEL_NAME.fullmatch(name) or name in (".", ".."):
            raise reader.bad(
                f"{path}.ChannelName", f"{show(name)} is not 1-64 of A-Z a-z 0-9 . - _"
            )
        if name in (c.name for c in found):
            raise reader.bad(f"{path}.ChannelName", f"{show(name)} is there twice")
        source = reader.get(entry, f"{path}.DataSource", dict, {})
        s3 = reader.get(source, f"{path}.DataSource.S3DataSource", dict, {})
        where = f"{path}.DataSource.S3DataSource"
        found.append(
            Channel(
                name=name,
                mode=reader.get(entry, f"{path}.InputMode", str, mode),
                uri=reader.get(s3, f"{where}.S3Uri", str, ""),
                s3_type=reader.get(s3, f"{where}.S3DataType", str, "S3Prefix"),
                distribution=reader.get(
                    s3, f"{where}.S3DataDistributionType", str, "FullyReplicated"
                ),
                content_type=reader.get(entry, f"{path}.ContentType", str, None),
                record_wrapper=reader.get(entry, f"{path}.RecordWrapperType", str, "None"),
            )
        )
    return tuple(found)


def _metrics(reader: Reader, algorithm: Mapping[str, Any]) -> tuple[Metric, ...]:
    path = "AlgorithmSpecification.MetricDefinitions"
    found = []
    for number, entry in enumerate(reader.get(algorithm, path, list, [])):
        if not isinstance(entry, dict):
            raise reader.bad(f"{path}[{number}]", f"{show(entry)} is not an object")
        name = reader.get(entry, f"{path}[{number}].Name", str, "")
        regex = reader.get(entry, f"{path}[{number}].Regex", str, "")
        try:
            re.compile(regex)
        except re.error as error:
            raise reader.bad(f"{path}[{number}].Regex", f"{show(regex)}: {error}") from None
        found.append(Metric(name, regex))
    return tuple(found)


def _checkpoints(reader: Reader, raw: Mapping[str, Any]) -> str:
    config = reader.get(raw, "CheckpointConfig", dict, {})
    path: str = reader.get(config, "CheckpointConfig.LocalPath", str, DEFAULT_CHECKPOINTS)
    if not path.startswith("/") or ".." in path.split("/") or not path.strip("/"):
        raise reader.bad("CheckpointConfig.LocalPath", f"{show(path)} is not an absolute path")
    return path.rstrip("/")


def load(path: Path) -> Request:
    """Read a request from a JSON file.

    Raises:
        BadInput: unreadable, not JSON, or not a request.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise BadInput(
                f"{path}: larger than {MAX_FILE} bytes; give a CreateTrainingJob request"
            )
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadInput(
            f"{path}: {error.strerror}; give a file with a CreateTrainingJob request"
        ) from None
    except (ValueError, RecursionError) as error:
        line = str(error).splitlines()[0]
        raise BadInput(f"{path}: not JSON: {line}; give a CreateTrainingJob request") from None
    return parse(document, str(path))


def smoke_request(
    image: str = "123456789012.dkr.ecr.us-west-2.amazonaws.com/trainer:latest",
    hyperparameters: Mapping[str, str] | None = None,
    *,
    name: str = "splatgate-smoke",
    instance_type: str = "ml.g4dn.xlarge",
    channel: str = "training",
    max_runtime: int = 3600,
    environment: Mapping[str, str] | None = None,
    metrics: Mapping[str, str] | None = None,
    isolated: bool = True,
) -> Request:
    """Make a request as the reference pipeline sends it: one File channel, isolated, GZIP."""
    algorithm: dict[str, Any] = {"TrainingImage": image, "TrainingInputMode": "File"}
    if metrics:
        algorithm["MetricDefinitions"] = [{"Name": n, "Regex": r} for n, r in metrics.items()]
    document: dict[str, Any] = {
        "TrainingJobName": name,
        "AlgorithmSpecification": algorithm,
        "RoleArn": f"arn:aws:iam::{DEFAULT_ACCOUNT}:role/splatgate-training",
        "InputDataConfig": [
            {
                "ChannelName": channel,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": "s3://splatgate-placeholder/scene/",
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
                "InputMode": "File",
            }
        ],
        "OutputDataConfig": {
            "S3OutputPath": "s3://splatgate-placeholder/output/",
            "CompressionType": "GZIP",
        },
        "ResourceConfig": {
            "InstanceType": instance_type,
            "InstanceCount": 1,
            "VolumeSizeInGB": 50,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": max_runtime},
        "EnableNetworkIsolation": isolated,
    }
    if hyperparameters:
        document["HyperParameters"] = dict(hyperparameters)
    if environment:
        document["Environment"] = dict(environment)
    return parse(document, "smoke request")


def job_key(
    name: str, request: Request, channel_hashes: Mapping[str, str], variant: object = None
) -> str:
    """Name that memoises a job: ``NAME-<8 hex>`` over the request and the content of its channels.

    The job's name and the image reference do not count: evidence is kept per image. ``variant`` is
    any JSON value that sets runs of one request apart (other limits, a stop).
    """
    raw = {key: value for key, value in request.raw.items() if key != "TrainingJobName"}
    raw["AlgorithmSpecification"] = {
        key: value
        for key, value in raw.get("AlgorithmSpecification", {}).items()
        if key != "TrainingImage"
    }
    text = json.dumps([raw, dict(channel_hashes), variant], sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
