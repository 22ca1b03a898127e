"""A definition as stores hold it: its document, with each secret sealed."""

from collections.abc import Callable, Mapping
from typing import Any

from gnomon.job.document import Document, read_definition, write_definition
from gnomon.job.model import Definition
from gnomon.job.sealing import plain_in
from gnomon.job.secret import Sealed

Leaf = Callable[[Any], Any]


def write_stored(definition: Definition) -> Document:
    """Plain JSON. Raises ValueError where a secret is not sealed: nothing stores it in clear."""
    if plain := plain_in(definition):
        raise ValueError(f"the secret at {plain[0]} is not sealed")
    return _each_secret(write_definition(definition, secrets=True), _packed)


def read_stored(document: Mapping[str, Any]) -> Definition:
    """What `write_stored` made, or what was stored before secrets were sealed.

    Raises InvalidJob, and whatever else a document raises that another hand wrote.
    """
    return read_definition(_each_secret(document, _unpacked))


def _each_secret(document: Mapping[str, Any], change: Leaf) -> Document:
    """Only where secrets can be: elsewhere an object is what the job sends, whatever it looks like."""
    found = dict(document)
    if http := found.get("http_job"):
        found["http_job"] = {
            **http,
            "auth": {name: change(value) for name, value in (http.get("auth") or {}).items()},
            "headers": {name: change(value) for name, value in (http.get("headers") or {}).items()},
            "signing_secrets": [change(value) for value in http.get("signing_secrets") or ()],
        }
    if (amqp := found.get("amqp_job")) and "password" in amqp:
        found["amqp_job"] = {**amqp, "password": change(amqp["password"])}
    return found


def _packed(value: object) -> object:
    return {"key": value.key, "sealed": value.box} if isinstance(value, Sealed) else value


def _unpacked(value: object) -> object:
    return Sealed(key=value["key"], box=value["sealed"]) if isinstance(value, Mapping) else value
