"""A stream read to its end of an epoch in a process of its own, which tells the memory that it took.

Usage: streaming_process.py MODEL FILE [MEGABYTES]: the most address space that it may take beyond what it has when
the first batch is there. Prints the examples, and the growth of its peak memory behind the first batch in bytes.
"""

import resource
import sys
from itertools import takewhile
from pathlib import Path

import psutil

from workbench.cost import peak_memory_bytes
from workbench.engines.encode import Encoder
from workbench.models import load_tokenizer
from workbench.training.config import Data, Training
from workbench.training.stream import Stream
from workbench.types import Model

if __name__ == "__main__":
    model, file, *limit = sys.argv[1:]
    data = Data(data=file, stream=True, shuffle_buffer=100)
    stream = Stream(Encoder(load_tokenizer(Model(model))), Training(batch_size=10, steps=1, data=data))
    batches = stream.batches()
    count = len(next(batches)[0])
    if limit:
        allowed = psutil.Process().memory_info().vms + int(limit[0]) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    before = peak_memory_bytes()
    first_epoch = takewhile(lambda batch: batch[1] < 1 << 40, batches)
    count += sum(len(batch) for batch, _ in first_epoch)
    if len(sys.argv) > 3:
        try:
            Path(file).read_bytes()
        except MemoryError:
            print("the whole file does not fit")
    print(count, peak_memory_bytes() - before)
