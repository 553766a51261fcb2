"""Trains what a config describes: `python train.py --config configs/navit.py`."""

import sys

from vitjax.training.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
