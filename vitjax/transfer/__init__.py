"""From a trained model to new tasks: what is trained, where it starts, and small files that hold only what is new."""
