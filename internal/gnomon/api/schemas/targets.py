"""What a job calls."""

from marshmallow import fields

from gnomon.api.schemas.fields import Array, Input, Text, Whole, one_of, optional, part, within
from gnomon.job.target import MAX_REDIRECTS, METHODS


class Auth(Input):
    """Credentials of the target. Secrets are never answered; "***" sent back keeps what is stored for this origin."""

    type = one_of(["none", "basic", "bearer"], "which fields belong to it: basic has username and password")
    username = optional(Text, "for basic")
    password = optional(Text, "for basic; a secret")
    token = optional(Text, "for bearer; a secret")


class Http(Input):
    """An HTTP call."""

    url = Text(
        metadata={"description": "absolute; without a scheme it means https", "example": "https://example.com/hook"}
    )
    method = one_of(METHODS, "POST by default")
    headers = fields.Dict(
        keys=Text(),
        values=Text(allow_none=True),
        allow_none=True,
        metadata={"description": "header names to values; those of Authorization, Cookie, X-Api-Key … are secrets"},
        error_messages={"invalid": "must be an object"},
    )
    body = optional(Text, "sent as it is, in UTF-8")
    valid_response_codes = optional(
        Array,
        "which statuses are a success; any 2xx by default",
        cls_or_instance=Whole(metadata=within(200, 599)),
    )
    auth = part(Auth, "credentials")
    secret_headers = optional(Array, "further headers whose values are secrets", cls_or_instance=Text())
    signing_secrets = optional(
        Array,
        "one or two, whsec_ and base64 of 24 to 64 bytes: the request is signed with each, as Standard Webhooks has it",
        cls_or_instance=Text(),
    )
    follow_redirects = optional(
        Whole,
        "how many redirects are followed, one after the other; 0 by default: a 3xx is judged by its status",
        metadata={"minimum": 0, "maximum": MAX_REDIRECTS},
    )


class NewHttp(Http):
    """The HTTP call of a new job."""

    url = Text(required=True, metadata=Http._declared_fields["url"].metadata, error_messages={"required": "is missing"})


class Amqp(Input):
    """A message for an AMQP 0-9-1 broker."""

    connection = Text(
        metadata={
            "description": "amqp:// or amqps://, user and password, host, port, vhost; the password is a secret",
            "example": "amqp://user:password@broker.example.com:5672/vhost",
        }
    )
    exchange = optional(Text, 'which must exist; "", the default, routes to the queue that routing_key names')
    routing_key = optional(Text, "up to 255 bytes")
    headers = fields.Dict(
        keys=Text(),
        values=fields.Raw(allow_none=True),
        allow_none=True,
        metadata={"description": "header names to strings, integers, booleans, arrays and objects"},
        error_messages={"invalid": "must be an object"},
    )
    body = optional(Text, "sent in UTF-8, or as the bytes it encodes")
    body_encoding = one_of(["base64"], "null: the body is text")
    content_type = optional(Text, "a property of the message", metadata={"example": "text/plain"})


class NewAmqp(Amqp):
    """The message of a new job."""

    connection = Text(
        required=True,
        metadata=Amqp._declared_fields["connection"].metadata,
        error_messages={"required": "is missing"},
    )
