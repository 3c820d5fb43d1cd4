"""Generating text with GPT-2: beam search, its cache and penalties, and predictions as files."""
