"""Saved failures and healthy jobs, with what diagnose must say of each."""
