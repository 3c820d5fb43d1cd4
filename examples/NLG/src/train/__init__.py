"""Training GPT-2: data, batches, optimiser, schedule, step, loop and the state that a run resumes from."""
