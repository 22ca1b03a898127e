"""What the API was handed when it was made, for the views to reach."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask, current_app

from gnomon.job.bulk import Bulk
from gnomon.job.creations import Creations
from gnomon.job.imports import Imports
from gnomon.job.ports import Catalog, InstanceStore, OverviewStore, TrailStore
from gnomon.job.repeats import Repeats
from gnomon.job.service import JobService

EXTENSION = "gnomon"


@dataclass(frozen=True, kw_only=True)
class Context:
    """The collaborators of one app. `ready` raises Unavailable while requests can't be served."""

    service: JobService
    creations: Creations
    imports: Imports
    repeats: Repeats
    overview: OverviewStore
    instances: InstanceStore
    catalog: Catalog
    trail: TrailStore
    ready: Callable[[], None]
    version: str

    @property
    def bulk(self) -> Bulk:
        """What does one thing to many jobs."""
        return Bulk(self.service, self.overview)

    def attach(self, app: Flask) -> None:
        """Makes it the context of this app."""
        app.extensions[EXTENSION] = self


def context() -> Context:
    """That of the app which serves the present request."""
    found: Context = current_app.extensions[EXTENSION]
    return found
