"""The OpenAPI document, and Swagger UI to read it with, from files of this package only."""

from pathlib import Path

from flask import Blueprint, Response, current_app, jsonify, redirect, send_from_directory
from werkzeug.wrappers import Response as BaseResponse

from gnomon.api.access import Open, needs

STATIC = Path(__file__).with_name("static")
# Swagger UI writes style attributes, and its images are data.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Gnomon API</title>
<link rel="stylesheet" href="/docs/static/swagger-ui/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/static/swagger-ui/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui" data-document="/openapi.json"></div>
<script src="/docs/static/swagger-ui/swagger-ui-bundle.js"></script>
<script src="/docs/static/docs.js"></script>
</body>
</html>
"""

routes = Blueprint("docs", __name__)


@routes.get("/")
@needs(Open.TO_ALL)
def root() -> BaseResponse:
    """Leads to what a person can read."""
    return redirect("/docs")


@routes.get("/openapi.json")
@routes.get("/v1/openapi.json")
@needs(Open.TO_ALL)
def document() -> Response:
    """The OpenAPI document."""
    return jsonify(current_app.extensions["openapi"])


@routes.get("/docs")
@needs(Open.TO_ALL)
def page() -> Response:
    """Swagger UI."""
    return Response(PAGE, mimetype="text/html", headers={"Content-Security-Policy": POLICY})


@routes.get("/docs/static/<path:name>")
@needs(Open.TO_ALL)
def static(name: str) -> Response:
    """A file of Swagger UI."""
    return send_from_directory(STATIC, name, max_age=3600)
