"""What ``run_clm.py``, ``generate.py`` and ``score.py`` are made of: rows, token ids, models, training, files."""
