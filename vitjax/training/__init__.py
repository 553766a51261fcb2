"""The trainer: it knows the five functions of a task, and no model, task or data set by name."""
