"""A terminal with a shell in it, typed into by a test.

Arguments: the command. First line of output: its pid, once it has shown a prompt. Then, for each
line of input, a JSON string that is typed as it is, one line of output: "ready" at the next prompt,
"ended" when the shell has.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios

PROMPTS = (b"[ready]", b"[more]")

pid, terminal = pty.fork()
if pid == 0:
    # No line is ever wrapped: the prompt would be drawn again. So it would if the shell heard of
    # another size.
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 32000, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])


def wait_for_prompt(is_to_end=False):
    shown = b""
    while not any(prompt in shown for prompt in PROMPTS):
        try:
            more = os.read(terminal, 65536)
        except OSError:
            more = b""
        if not more and is_to_end:
            return "ended"
        if not more:
            sys.stderr.write(shown.decode(errors="replace"))
            return "ended"
        # A prompt may arrive in two pieces.
        shown = shown[-16:] + more
    return "ready"


def type_in(text):
    while text:
        # What is echoed must be read meanwhile, or both sides wait for each other.
        _, writable, _ = select.select([], [terminal], [], 0.01)
        if writable:
            text = text[os.write(terminal, text[:512]):]


state = wait_for_prompt()
print(pid if state == "ready" else state, flush=True)
for line in sys.stdin:
    keys = json.loads(line)
    type_in(keys.encode("utf-8", "surrogateescape"))
    state = wait_for_prompt(is_to_end=keys == "exit\n")
    print(state, flush=True)
    if state == "ended":
        break
os.waitpid(pid, 0)
