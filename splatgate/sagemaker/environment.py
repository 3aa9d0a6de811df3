"""What a job's program finds: its command line, its environment, its configuration files."""

from __future__ import annotations

import json
from typing import Any

from splatgate.sagemaker.assumptions import Assumptions
from splatgate.sagemaker.request import Request


def command_line(request: Request, image: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Compose ``docker run`` by the four rows of contract 1.1.

    Returns the arguments for the engine, and the whole command line that the container gets.
    """
    own = tuple((image.attrs.get("Config") or {}).get("Entrypoint") or ())
    arguments = request.arguments or ()
    if request.entrypoint is not None:
        options: dict[str, Any] = {"entrypoint": list(request.entrypoint)}
        if arguments:
            options["command"] = list(arguments)
        return options, (*request.entrypoint, *arguments)
    arguments = arguments or ("train",)
    return {"command": list(arguments)}, (*own, *arguments)


def environment(request: Request, assumed: Assumptions) -> dict[str, str]:
    """Exactly what SageMaker sets: two variables and the request's own (contract 3.1)."""
    region = dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), request.region)
    return {
        **(region if assumed.region_variables else {}),
        "TRAINING_JOB_NAME": request.name,
        "TRAINING_JOB_ARN": request.arn,
        **request.environment,
    }


def config_files(request: Request, assumed: Assumptions) -> dict[str, bytes]:
    """The files of /opt/ml/input/config, by path below /opt/ml (contract 2.1-2.3)."""
    host, group = "algo-1", "homogeneousCluster"
    channels = {}
    for channel in request.channels:
        entry = {
            "TrainingInputMode": channel.mode,
            "S3DistributionType": channel.distribution,
            "RecordWrapperType": channel.record_wrapper,
        }
        if channel.content_type is not None:
            entry["ContentType"] = channel.content_type
        channels[channel.name] = entry
    documents: dict[str, Any] = {
        "inputdataconfig": channels,
        "resourceconfig": {
            "current_host": host,
            "hosts": [host],
            "network_interface_name": "eth0",
            "current_instance_type": request.instance_type,
            "current_group_name": group,
            "instance_groups": [
                {
                    "instance_group_name": group,
                    "instance_type": request.instance_type,
                    "hosts": [host],
                }
            ],
        },
    }
    if request.hyperparameters or assumed.empty_hyperparameters_file:
        documents["hyperparameters"] = dict(request.hyperparameters)
    return {
        f"input/config/{name}.json": json.dumps(document).encode()
        for name, document in documents.items()
    }
