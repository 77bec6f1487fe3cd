"""The protocol of chief and workers: keras-tuner's messages and service, with several trials in each message.

A trial of keras-tuner's stands for an assignment: the trials that one worker trains together. What its messages have no
field for travels as JSON in a fixed hyperparameter.
"""

import base64
import dataclasses
import io
import json
from typing import Any

import grpc
import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial, TrialStatus

from kerasnn.keras_private import tuner_service
from kerasnn.search.trial import Outcome

protos, OracleClient, _ = tuner_service()

RUNNING, IDLE, STOPPED = TrialStatus.RUNNING, TrialStatus.IDLE, TrialStatus.STOPPED

OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0))
"""Messages of any size; one process for each port."""
DEADLINE = 5.0
"""Seconds after which a call fails."""

_CONTENT = "content"


def hyperparameters(content: Any) -> keras_tuner.HyperParameters:
    """JSON as hyperparameters, which keras-tuner's messages carry."""
    carrier = keras_tuner.HyperParameters()
    carrier.Fixed(_CONTENT, json.dumps(content))
    return carrier


def message(assignment: str, status: str, content: Any = None) -> Trial:
    """The trial of keras-tuner's that stands for an assignment, given its name."""
    return Trial(hyperparameters(content), trial_id=assignment, status=status)


def content(carrier: keras_tuner.HyperParameters) -> Any:
    """The JSON in hyperparameters."""
    return json.loads(carrier.get(_CONTENT))


def outcome_to_json(outcome: Outcome, with_weights: bool) -> dict[str, Any]:
    """An outcome as JSON, perhaps with the weights of the best epoch; its training state stays with the worker."""
    fields = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    weights = [_to_text(each) for each in outcome.weights] if with_weights else []
    return {**fields, "states": [], "weights": weights}


def outcome_from_json(fields: dict[str, Any]) -> Outcome:
    """The outcome that `outcome_to_json` described."""
    weights = tuple(_from_text(text) for text in fields["weights"])
    lists = {name: tuple(fields[name]) for name in ("histories", "states", "ended")}
    return Outcome(**{**fields, **lists, "weights": weights})


def _to_text(weights: list[np.ndarray] | None) -> str | None:
    if weights is None:
        return None
    file = io.BytesIO()
    np.savez(file, *weights)
    return base64.b64encode(file.getvalue()).decode()


def _from_text(text: str | None) -> list[np.ndarray] | None:
    if text is None:
        return None
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as arrays:
        return [arrays[f"arr_{index}"] for index in range(len(arrays))]


class Client(OracleClient):  # type: ignore[valid-type, misc]
    """keras-tuner's client with calls that fail after `DEADLINE` instead of an hour.

    Args:
        address: the chief's, `host:port`.
        name: the worker's, unique among all.
    """

    def __init__(self, address: str, name: str) -> None:
        # Instead of its own, which reads the address from environment variables.
        self.tuner_id = name
        self.multi_worker, self.should_report = False, True
        channel = grpc.intercept_channel(grpc.insecure_channel(address, options=OPTIONS), _Deadline())
        self.stub = protos.get_service_grpc().OracleStub(channel)


class _Deadline(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(client_call_details._replace(timeout=DEADLINE), request)
