"""Loads the plugin. Imports no docker, boto3 or moto: every lane collects with its own packages."""

pytest_plugins = ["splatgate.judge.plugin"]
