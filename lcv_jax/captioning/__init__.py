"""Captions of clips by Qwen2-VL (report section 2.1.2), and the prompts and batches that it needs."""
