"""What a batch means: one file per kind of problem, each an implementation of `task.Task`."""
