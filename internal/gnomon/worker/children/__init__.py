"""Child processes that run sync handlers, one call at a time each: whatever a handler does, it does to them alone."""
