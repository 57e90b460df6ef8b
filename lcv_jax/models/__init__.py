"""The networks, as Flax linen modules used functionally."""
