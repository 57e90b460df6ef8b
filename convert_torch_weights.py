"""Converts a published LongCat-Video checkpoint for lcv_jax, checks one, or turns a converted one back: `lcv convert`.

python convert_torch_weights.py LongCat-Video weights
python convert_torch_weights.py LongCat-Video weights --dtype bfloat16 --fold cfg_step_lora
python convert_torch_weights.py LongCat-Video --check
python convert_torch_weights.py weights LongCat-Video-again --to-torch
"""

from lcv_jax.convert import main

if __name__ == "__main__":
    main(prog="convert_torch_weights.py")
