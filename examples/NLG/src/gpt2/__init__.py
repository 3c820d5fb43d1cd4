"""GPT-2 with LoRA: the model, its data, training and decoding. Import the module that you need."""
