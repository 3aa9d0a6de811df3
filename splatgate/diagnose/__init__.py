"""From a failed job to the line of the checklist that explains it."""
