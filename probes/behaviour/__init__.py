"""Text that a model wrote → findings: what it did, by rules with an id and a version. Nothing here judges one text alone."""
