"""ComfyUI nodes for a server of lcv_jax."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
