"""Maps a file as code, as a process does with its libraries, prints "ready", and stays.

FILE
"""

import mmap
import sys
import time

file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)
print("ready", flush=True)
time.sleep(1000)
