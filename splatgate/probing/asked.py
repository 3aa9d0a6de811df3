"""The request of a probe job, and the most that it can cost."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from splatgate.evidence import BadInput
from splatgate.expectations import GRACE
from splatgate.sagemaker.validate import validate

#: Longest value of a hyperparameter (contract 2.2), in which the program travels.
VALUE = 2500
#: Runs the program out of the hyperparameters; a word of ContainerEntrypoint holds 256 characters.
BOOT = (
    'import base64,json,zlib;h=json.load(open("/opt/ml/input/config/hyperparameters.json"));'
    'exec(zlib.decompress(base64.b64decode("".join(h[k]for k in sorted(h)if k[:5]=="probe"))))'
)
#: How the program may end, and what that shows.
ENDS = {
    "stop": "waits until MaxRuntimeInSeconds and exits with 7 after SIGTERM",
    "fail": "exits with 7 and a failure text of 1,206 characters",
    "empty": "exits with 0 and an empty /opt/ml/model",
}


@dataclass(frozen=True)
class Asked:
    """What a probe job is to be. ``seconds`` is MaxRuntimeInSeconds, ``price`` in USD an hour."""

    image: str
    role: str
    output: str
    instance_type: str
    end: str = "stop"
    seconds: int = 300
    channel: str | None = None
    python: str = "python3"
    isolated: bool = True
    name: str = ""
    price: float | None = None
    ceiling: float | None = None

    @property
    def most_seconds(self) -> float:
        """The longest that it can be billed for: its limit, and the grace after SIGTERM."""
        return self.seconds + GRACE

    @property
    def most(self) -> float | None:
        """The most that it can cost, in USD; None: no price was stated."""
        return None if self.price is None else self.most_seconds / 3600 * self.price


def name_of(end: str) -> str:
    """A job name that no other run has."""
    return f"splatgate-probe-{end}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"


def request(asked: Asked) -> dict[str, Any]:
    """The CreateTrainingJob request.

    Raises:
        BadInput: the service would refuse it; names the member.
    """
    text = (Path(__file__).parent / "inside.py").read_bytes()
    program = base64.b64encode(zlib.compress(text, 9)).decode()
    pieces = [program[at : at + VALUE] for at in range(0, len(program), VALUE)]
    found: dict[str, Any] = {
        "TrainingJobName": asked.name,
        "AlgorithmSpecification": {
            "TrainingImage": asked.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": [asked.python, "-u", "-c", BOOT],
        },
        "RoleArn": asked.role,
        "HyperParameters": {
            "end": asked.end,
            **{f"probe{number:02}": piece for number, piece in enumerate(pieces)},
        },
        "OutputDataConfig": {"S3OutputPath": asked.output},
        "ResourceConfig": {
            "InstanceType": asked.instance_type,
            "InstanceCount": 1,
            "VolumeSizeInGB": 30,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": asked.seconds},
        "EnableNetworkIsolation": asked.isolated,
    }
    if asked.channel:
        source = {
            "S3DataType": "S3Prefix",
            "S3Uri": asked.channel,
            "S3DataDistributionType": "FullyReplicated",
        }
        found["InputDataConfig"] = [
            {
                "ChannelName": "training",
                "DataSource": {"S3DataSource": source},
                "InputMode": "File",
            }
        ]
    if refused := validate(found):
        raise BadInput(f"the service would refuse this request: {'; '.join(refused)}")
    return found


def affordable(asked: Asked, live: bool) -> None:
    """Refuse a job whose cost nobody bounded, or that may exceed the bound.

    Raises:
        BadInput: so it is; says by how much.
    """
    if live and (asked.price is None or asked.ceiling is None):
        raise BadInput(
            f"--live needs --price-per-hour USD (what training on {asked.instance_type} costs you) "
            "and --ceiling USD: no price is assumed"
        )
    if asked.most is not None and asked.ceiling is not None and asked.most > asked.ceiling:
        raise BadInput(
            f"{asked.most_seconds:.0f} s at {asked.price} USD an hour may cost {asked.most:.2f}, "
            f"more than the ceiling of {asked.ceiling:.2f}; lower --max-runtime or raise --ceiling"
        )
