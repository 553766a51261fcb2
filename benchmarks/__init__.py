"""Every figure that vitjax quotes: `python -m benchmarks` lists them."""
