"""What ``run_glue.py`` is made of: tasks, data, model, training, files."""
