"""The app that Flower watches: `celery --app gnomon.bootstrap.flower flower`. Reads the settings when imported."""

from gnomon.queue.celery.app import observing_app
from gnomon.settings import load_settings

_settings = load_settings({})
app = observing_app(_settings.queue_url(), ca_file=_settings.tls.ca_file)
