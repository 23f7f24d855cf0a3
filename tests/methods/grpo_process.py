"""A GRPO training in processes of its own, for the tests beside it. Usage: grpo_process.py MODEL ROOT SCALE"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from test_grpo import config, tune

if __name__ == "__main__":
    torch.set_num_threads(1)
    tune(Path(sys.argv[1]), Path(sys.argv[2]), config({"batch_size": 4}, scale_rewards=sys.argv[3]))
    print(f"of {PartialState().num_processes} processes")
