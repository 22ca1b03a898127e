"""When Python looks for garbage in cycles."""

import gc

# By default each 700 new objects are looked through, and now and then all that there are: here these are definitions
# and what is in flight, hardly ever garbage. That took a fifth to a third of the time of an event loop under load.
THRESHOLDS = (50_000, 20, 50)


def look_seldom() -> None:
    """Leaves alone for ever what there is by now, and looks at the rest seldom. To be called once all is imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
