"""Files with adapters: folders as PEFT writes them, checkpoints of this project and of the released code."""
