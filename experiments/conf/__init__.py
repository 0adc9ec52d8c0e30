"""Configurations; a package, so that installed apps find them."""
