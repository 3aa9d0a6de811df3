"""Seeing an image and the container under test."""
