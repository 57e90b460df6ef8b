"""One file for each stage: a function of a row, and a value `STAGE` that describes it."""
