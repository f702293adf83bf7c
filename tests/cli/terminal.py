"""Drives `onward sql` on a terminal: terminal.py PROGRAM [ARGUMENT ...], where arguments connect it to a server. Ends with
an error when the shell does not do as it should."""

import os
import pty
import re
import select
import sys
import time

PATIENCE_S = 60


class Shell:
    def __init__(self, program, *arguments):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(program, [program, "sql", *arguments])
        self.seen = ""

    def send(self, text):
        os.write(self.terminal, text.encode())

    def expect(self, pattern):
        """Reads until `pattern` came; what came up to its end is taken."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(pattern, self.seen, re.S)):
            ready, _, _ = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f"{pattern!r} did not come; this did: {self.seen!r}")
            try:
                data = os.read(self.terminal, 65536)
            except OSError:
                data = b""
            if not data:
                raise AssertionError(f"the shell ended before {pattern!r}; this came: {self.seen!r}")
            # Without what moves the cursor or sets colours.
            self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
        self.seen = self.seen[found.end():]
        return found

    def leave(self):
        self.send("\x04")
        while True:
            try:
                if not os.read(self.terminal, 65536):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


shell = Shell(*sys.argv[1:])
shell.expect(r"onward> ")

# Over a server too, a statement that functions work on says how far it is, and Ctrl-C cancels it.
if len(sys.argv) > 2:
    shell.send("set onward.functions = 1;\r")
    shell.expect(r"onward> ")
    for statement in ["select sum(value)", "create table t as select sum(value)"]:
        shell.send(statement + " from generate_series(1, 9000000000000000);\r")
        shell.expect(r"0/1 tasks, 1 functions")
        shell.send("\x03")
        shell.expect(r"cancelled.*onward> ")
    shell.send("create table t as select 7 as seven;\r")
    shell.expect(r"onward> ")
    shell.send("select seven from t;\r")
    shell.expect(r"\| seven \|.*onward> ")
    code = shell.leave()
    sys.exit(f"exit code {code}" if code else 0)

# A statement over two lines runs at its semicolon.
shell.send("select 20 +\r")
shell.send("22 as answer;\r")
shell.expect(r"\| answer \|.*\| +42 \|.*\(1 row\).*Time: .*onward> ")

# Commands; a table made here is listed and described.
shell.send("create table kept as select 1 as first_column;\r")
shell.expect(r"onward> ")
shell.send("\\d\r")
shell.expect(r"kept.*rows?\).*onward> ")
shell.send("\\d kept\r")
shell.expect(r"first_column.*onward> ")
shell.send("\\x on\r")
shell.expect(r"Expanded display is on.*onward> ")
shell.send("select 5 as five;\r")
shell.expect(r"-\[ row 1 \]-+\s+five \| 5.*onward> ")
shell.send("\\x off\r")
shell.expect(r"onward> ")
shell.send("help\r")
shell.expect(r"Ctrl-D leaves.*onward> ")
shell.send("\\nonsense\r")
shell.expect(r"error: .nonsense.*onward> ")

# Completion of keywords.
shell.send("selec\t 6 as six;\r")
shell.expect(r"\| six \|.*onward> ")

# An error is shown and the shell goes on.
shell.send("select nope;\r")
shell.expect(r"error: .*nope.*onward> ")

# Long results are cut with a note.
shell.send("\\maxrows 10\r")
shell.expect(r"onward> ")
shell.send("select value from generate_series(1, 100000);\r")
shell.expect(r"\(10 rows\).*Only the first 10 rows.*onward> ")

# Ctrl-C cancels the statement that runs, which its progress line shows, and not the shell.
shell.send("select sum(value) from generate_series(1, 9000000000000000);\r")
shell.expect(r"running|tasks")
shell.send("\x03")
shell.expect(r"cancelled.*onward> ")

# Ctrl-C on a line drops the line.
shell.send("select nonsense\x03")
shell.expect(r"onward> ")
shell.send("select 7 as seven;\r")
shell.expect(r"\| seven \|.*onward> ")

code = shell.leave()
assert code == 0, f"exit code {code}"
with open(os.path.join(os.environ["XDG_STATE_HOME"], "onward", "history")) as history:
    assert "as seven" in history.read()
