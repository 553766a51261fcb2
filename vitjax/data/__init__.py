"""Sources of images, and all that turns them into batches: numpy only, no JAX, so worker processes start quickly."""
