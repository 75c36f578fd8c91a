"""Proxies to compare, as their folders in `peers` describe them."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

from common import AUTHORITY, CACHE, CERTIFICATE, KEY, PRODUCT, free_port

PATH = "/v1/chat/completions"
ANSWER_WITHIN = 10  # seconds
END_WITHIN = 5
SETTLE_WITHIN = 10


def start(command, cores, log=subprocess.DEVNULL, env=None, cwd=None):
    """Starts a program on these cores, as a process group of its own."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
        env={**os.environ, **(env or {})}, start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores))


def stop(process):
    """Ends a process group, by force if it must be."""
    for sign, wait in ((signal.SIGCONT, 0), (signal.SIGTERM, END_WITHIN), (signal.SIGKILL, END_WITHIN)):
        try:
            os.killpg(process.pid, sign)
            if wait:
                process.wait(wait)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.poll()


def cpu_ticks(group):
    """User and system time of a process group so far."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            total += int(fields[11]) + int(fields[12])
    return total


def connect(port, is_tls=False):
    if not is_tls:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN)
    context = ssl.create_default_context(cafile=AUTHORITY)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=ANSWER_WITHIN, context=context)


def post(port, headers=(), plan=None, is_tls=False):
    """One small request; gives status and body."""
    content = f"Hello {plan or ''}"
    body = json.dumps({"model": "gpt-4o-mini", "stream": plan is not None,
                       "messages": [{"role": "user", "content": content}]})
    fields = {"content-type": "application/json", "authorization": "Bearer sk-bench"}
    fields |= dict(header.split(": ", 1) for header in headers)
    connection = connect(port, is_tls)
    try:
        connection.request("POST", PATH, body, fields)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Peer:
    """A proxy: started as a setup wants it, paused while others are measured, stopped."""

    def __init__(self, directory, ports):
        self.name = directory.name
        self.directory = directory
        self.ports = ports
        self.values = {"CACHE": CACHE, "PEER": directory, "PRODUCT": PRODUCT,
                       "CERTIFICATE": CERTIFICATE, "KEY": KEY, "AUTHORITY": AUTHORITY}
        self.spec = json.loads((directory / "peer.json").read_text())
        self.process = self.port = self.work = self.setup = None
        self.is_replacing = False

    def fill(self, text):
        """With the values in place of their names; a value may have names in it."""
        while (filled := re.sub("@([A-Z_]+)@", lambda found: str(self.values[found[1]]), text)) != text:
            text = filled
        return text

    def fill_all(self, texts):
        return [self.fill(text) for text in texts]

    def env(self):
        env = {**self.spec.get("env", {}), **(self.is_replacing and self.spec.get("override_env") or {})}
        return {name: self.fill(value) for name, value in env.items()}

    def headers(self):
        replacing = self.is_replacing and self.spec.get("override_headers")
        return self.fill_all(replacing or self.spec.get("headers", []))

    def is_installed(self):
        needs = self.fill(self.spec["needs"])
        return shutil.which(needs) is not None or Path(needs).is_file()

    def version(self):
        if "version_in_lock" in self.spec:
            crate, lock = self.fill_all(self.spec["version_in_lock"])
            packages = tomllib.loads(Path(lock).read_text())["package"]
            return next(f"{crate} {it['version']}" for it in packages if it["name"] == crate)
        done = subprocess.run(self.fill_all(self.spec["version"]), capture_output=True, text=True, timeout=60,
                              env={**os.environ, "RUST_LOG": "error"})
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        wanted = self.spec.get("version_of")
        if wanted:
            return " ".join(line for line in lines if line.split("==")[0].lower() in wanted)
        return lines[0] if lines else ""

    def can_replace(self):
        ways = {"override_command", "override_env", "override_headers", "rewrites_model"}
        return not ways.isdisjoint(self.spec)

    def takes(self, setup):
        """Whether its folder says how it is started so."""
        sides = (("clients", setup.clients), ("backends", setup.backends))
        return all(kind == "plain" or kind in self.spec.get(side, {}) for side, kind in sides)

    def start(self, setup, cores):
        self.port = free_port()
        self.setup = setup
        self.is_replacing = setup.replacing and self.can_replace()
        self.work = Path(tempfile.mkdtemp(prefix=f"compare-{self.name}-"))
        self.values |= {
            "PORT": self.port, "SPARE_PORT": free_port(), "WORK": self.work, "WORKERS": setup.workers or len(cores),
            "UPSTREAM_PORT": self.ports[setup.backends],
            "UPSTREAM_SCHEME": "http" if setup.backends == "plain" else "https",
            "CLIENTS_SCHEME": "http" if setup.clients == "plain" else "https",
            "CLIENTS": self.spec.get("clients", {}).get(setup.clients, ""),
            "BACKENDS": self.spec.get("backends", {}).get(setup.backends, "")}
        (self.work / "server.pem").write_text(CERTIFICATE.read_text() + KEY.read_text())
        for template in self.spec.get("render", []):
            (self.work / Path(template).name).write_text(self.fill((self.directory / template).read_text()))
        command = self.is_replacing and self.spec.get("override_command") or self.spec["command"]
        # What is for TLS alone may be several arguments, or none.
        command = [part for text in command for part in
                   (shlex.split(self.fill(text)) if text == "@CLIENTS@" else [self.fill(text)])]
        with open(self.work / "log", "wb") as log:
            self.process = start(command, cores, log, self.env(), self.work)
        deadline = time.monotonic() + self.spec.get("start_timeout_s", 20)
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.post()[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        log = (self.work / "log").read_text(errors="replace")
        raise RuntimeError(f"did not start: {log[-600:].strip()}")

    def post(self, plan=None):
        return post(self.port, self.headers(), plan, self.setup.clients != "plain")

    def check(self, expected):
        """Says what is wrong with its answers, or nothing."""
        status, body = self.post()
        if status != 200:
            return f"status {status}: {body[:200]!r}"
        if self.is_replacing:
            if not self.spec.get("hides_model") and json.loads(body).get("model") != "x":
                return "the model is not replaced"
        elif not self.spec.get("rewrites_answer") and body != expected:
            return f"the answer is another: {body[:200]!r}"
        status, body = self.post("mock:chunks=3,delay_us=1000")
        if status != 200 or body.count(b"@") != 6 or b"[DONE]" not in body:
            return f"streams don't pass: status {status}, {body[:200]!r}"
        return None

    def pause(self):
        """Stops it, once it has dealt with what the last run left."""
        deadline = time.monotonic() + SETTLE_WITHIN
        before = cpu_ticks(self.process.pid)
        while time.monotonic() < deadline:
            time.sleep(0.06)
            now = cpu_ticks(self.process.pid)
            if now - before <= 1:
                break
            before = now
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self):
        if self.process:
            stop(self.process)
            self.process = None
        if self.work:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work = None


class Direct:
    """No proxy: the load goes to the backend itself, which speaks HTTP/1.1."""

    name = "direct"
    process = port = None

    def __init__(self, ports):
        self.ports = ports

    def start(self, setup, cores):
        self.port = self.ports[setup.clients]

    headers = lambda self: []
    can_replace = lambda self: False
    takes = lambda self, setup: setup.clients in self.ports
    check = lambda self, expected: None
    pause = resume = stop = lambda self: None
