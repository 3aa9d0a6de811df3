"""The proof that the judge can say no: known-bad variants, and edits of good evidence."""
