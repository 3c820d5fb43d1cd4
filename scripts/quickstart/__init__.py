"""The offline default of ``scripts/quickstart.sh``: a seeded corpus, a vocabulary of it, and the report of its runs."""
