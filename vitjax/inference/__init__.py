"""Using a trained model: bundles, prediction on pictures of any size, results."""
