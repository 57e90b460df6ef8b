"""What the stages of training minimise: pure functions of networks as callables, arrays and a key, in float32.

One file an objective; each is a frozen dataclass whose fields are its settings. They know no modules, no meshes and no
optimisers.
"""
