"""A terminal with a shell in it, typed into by a test.

Arguments: the command. First line of output: its pid, once it has shown a prompt. Then, for each
line of input, a JSON list of text that is typed as it is and a number of prompts, one line of
output: "ready" when so many were shown, "ended" when the shell has.
"""

import fcntl
import json
import os
import pty
import re
import select
import struct
import sys
import termios

PROMPT = re.compile(rb"\[(?:ready|more)\]")

pid, terminal = pty.fork()
if pid == 0:
    # No line is ever wrapped: the prompt would be drawn again. So it would if the shell heard of
    # another size.
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 32000, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])


def enter(text, prompts, is_to_end=False):
    shown = b""
    while prompts > 0 or text:
        # What is echoed must be read meanwhile, or both sides wait for each other.
        readable, writable, _ = select.select([terminal], [terminal] if text else [], [])
        if readable:
            try:
                more = os.read(terminal, 65536)
            except OSError:
                more = b""
            if not more:
                if not is_to_end:
                    sys.stderr.write(shown.decode(errors="replace"))
                return "ended"
            shown += more
            found = list(PROMPT.finditer(shown))
            prompts -= len(found)
            # A prompt may arrive in two pieces.
            shown = shown[max(found[-1].end() if found else 0, len(shown) - 16):]
        if writable:
            text = text[os.write(terminal, text[:512]):]
    return "ready"


state = enter(b"", 1)
print(pid if state == "ready" else state, flush=True)
for line in sys.stdin:
    text, prompts = json.loads(line)
    state = enter(text.encode("utf-8", "surrogateescape"), prompts, is_to_end=text == "exit\n")
    print(state, flush=True)
    if state == "ended":
        break
os.waitpid(pid, 0)
