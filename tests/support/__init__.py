"""What many tests need to set a scene and to look at it."""
