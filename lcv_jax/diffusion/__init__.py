"""Flow matching: pure functions that know no network."""
