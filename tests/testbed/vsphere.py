"""Our vSphere API server (`vsim/`, Go) as a child process: standalone ESXi hosts and vCenters on loopback, over TLS.

Each `VSphere` is one process and one endpoint. Several endpoints given the same datastore directory share its files,
as ESXi hosts share an NFS export. A test controls its endpoint from outside the API: faults, host state, sessions.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import secrets
import selectors
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

_REPOSITORY = Path(__file__).resolve().parents[2]
_SOURCES = Path(__file__).resolve().parent / "vsim"
_LIBRARIES = Path("/usr/share/gocode")
# Corrections of Debian's sources, made while compiling: file, wrong line, right line. The property collector asks for
# the type of an object whose changes it has yet to tell, and panics if the object is gone meanwhile.
_CORRECTIONS = (
    (
        _LIBRARIES / "src/github.com/vmware/govmomi/simulator/property_filter.go",
        "kind = getManagedObject(ctx.Map.Get(ref)).Type()",
        "if left := ctx.Map.Get(ref); left != nil { kind = getManagedObject(left).Type() } else { continue }",
    ),
    (  # updates are told when they are there, as by a real one, and not four times a second
        _LIBRARIES / "src/github.com/vmware/govmomi/simulator/property_collector.go",
        "time.NewTicker(250 * time.Millisecond)",
        "time.NewTicker(25 * time.Millisecond)",
    ),
)
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0
_SECTOR = 512


class TestbedError(Exception):
    """A part of the test bed cannot be built, started or controlled; one sentence that says what to do."""

    __test__ = False


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A hypervisor to simulate. `nested`: it lends its hardware virtualisation to VMs."""

    name: str
    memory_mb: int = 131072
    cores: int = 32
    mhz: int = 2600
    nested: bool = False


class Options(TypedDict, total=False):
    """What an endpoint can be given.

    `port` 0 takes a free one. The old port, with the old directory, is a restart after a crash: the VMs that were
    registered are there again, powered off; with `stateless` they are not, as of a host that boots from the network.
    `task_ms` is what every task takes, `copy_mb_s` how much of its data each copy of a disk writes in a second (0: as
    much as it can), `multiextent` reads disks in Workstation's format, as ESXi before 6.5 could. `admit` refuses
    power-ons beyond a host's RAM, `capacity_mb` limits every datastore, `stale_space` shows its free space as it was
    at the last refresh, `idle_s` ends idle sessions, `power_socket` is a Unix datagram socket that is told of power
    changes.
    """

    datastores: Required[Mapping[str, Path]]
    certificate: Required[Path]
    key: Required[Path]
    ca: Required[Path]
    networks: Iterable[str]
    power_socket: Path | None
    task_ms: int
    copy_mb_s: float
    admit: bool
    capacity_mb: int | None
    stale_space: bool
    stateless: bool
    multiextent: bool
    user: str
    password: str
    idle_s: float | None
    port: int


def build() -> Path:
    """The server's binary, compiled if its sources changed; several processes may call this at once."""
    sources = sorted(_SOURCES.glob("*.go"))
    content = b"".join(path.name.encode() + path.read_bytes() for path in sources) + repr(_CORRECTIONS).encode()
    digest = hashlib.sha256(content).hexdigest()
    out = _REPOSITORY / ".build"
    binary, stamp = out / "vsim", out / "vsim.sha256"
    out.mkdir(exist_ok=True)
    with (out / "vsim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binary.exists() and stamp.exists() and stamp.read_text() == digest:
            return binary
        go = _toolchain()
        packages = out / "gopath" / "src"
        packages.mkdir(parents=True, exist_ok=True)
        link = packages / "vsim"
        link.unlink(missing_ok=True)
        link.symlink_to(_SOURCES)
        unfinished = out / "vsim.new"
        environment = os.environ | {
            "GO111MODULE": "off",
            "GOFLAGS": "",
            "CGO_ENABLED": "0",
            "GOPATH": f"{out / 'gopath'}:{_LIBRARIES}",
            "GOCACHE": str(out / "gocache"),
        }
        done = subprocess.run(
            [go, "build", "-trimpath", "-overlay", _corrected(out), "-ldflags", "-s -w", "-o", str(unfinished), "vsim"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise TestbedError(f"{go} build of {_SOURCES} failed:\n{done.stderr}")
        unfinished.replace(binary)
        stamp.write_text(digest)
    return binary


def _corrected(out: Path) -> Path:
    """What the compiler is to read instead of some of Debian's files."""
    replace = {}
    for file, wrong, right in _CORRECTIONS:
        corrected = out / file.name
        corrected.write_text(file.read_text().replace(wrong, right))
        replace[str(file)] = str(corrected)
    overlay = out / "overlay.json"
    overlay.write_text(json.dumps({"Replace": replace}))
    return overlay


def _toolchain() -> Path:
    """The Go compiler; Debian's golang-1.19-go puts it beside the PATH."""
    found = sorted(Path("/usr/lib").glob("go-*/bin/go"))
    on_path = shutil.which("go")
    if on_path:
        found.insert(0, Path(on_path))
    if not found or not (_LIBRARIES / "src/github.com/vmware/govmomi/simulator").is_dir():
        raise TestbedError(
            "The vSphere server of the tests cannot be compiled: run "
            "apt-get install -y golang-1.19-go golang-github-vmware-govmomi-dev"
        )
    return found[-1]


class VSphere:
    """One running endpoint: `url`, `host`, `port`, `pid`, `user`, `password`, `ca`. End it with `stop()`."""

    host = "127.0.0.1"

    def __init__(self, directory: Path, arguments: Iterable[str], **options: Unpack[Options]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for path in options["datastores"].values():
            path.mkdir(parents=True, exist_ok=True)
        self.user, self.password = options.get("user", "svc"), options.get("password", "pw")
        self.ca = options["ca"]
        self.log = directory / "vsim.log"
        self._inventory = directory / "inventory.json"
        if not options.get("port"):
            self._inventory.unlink(missing_ok=True)
        self._token = secrets.token_hex(16)
        self._tls = ssl.create_default_context(cafile=str(self.ca))
        secret = {"VSIM_PASSWORD": self.password, "VSIM_CONTROL_TOKEN": self._token, "TMPDIR": str(directory)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(build()),
                    *_command_line(self.host, self.user, options),
                    *("-inventory", str(self._inventory)),
                    *arguments,
                ],
                stdin=subprocess.PIPE,  # its end, when this process dies, ends the server
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | secret,
            )
        self.pid = self._process.pid
        try:
            self.port = self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self.url = f"https://{self.host}:{self.port}/sdk"

    @classmethod
    def start_esxi(
        cls,
        directory: Path,
        name: str,
        memory_mb: int = 131072,
        cores: int = 32,
        *,
        nested: bool = False,
        **options: Unpack[Options],
    ) -> VSphere:
        """A standalone ESXi host; `directory` gets its log."""
        host = HostSpec(name, memory_mb, cores, nested=nested)
        return cls(directory, ["-esx", "-hosts", _host_argument(host)], **options)

    @classmethod
    def start_vcenter(
        cls, directory: Path, hosts: Iterable[HostSpec], cluster: str | None = None, **options: Unpack[Options]
    ) -> VSphere:
        """A vCenter with datacenter DC0; its hosts stand alone or are in one cluster."""
        arguments = ["-hosts", ",".join(_host_argument(host) for host in hosts)]
        return cls(directory, arguments + (["-cluster", cluster] if cluster else []), **options)

    def inject(
        self,
        method: str,
        kind: str,
        *,
        fault: str = "",
        status: int = 0,
        ms: int = 0,
        match: str = "",
        count: int = 0,
        prob: float = 0.0,
    ) -> None:
        """Make calls of `method` ("PowerOnVM_Task", "PUT /folder", "*") go wrong.

        `kind`: `soap` (the call is refused with `fault`), `task` (its task fails), `http` (answered with `status`),
        `drop` (connection cut), `dropafter` (done, but the answer is lost), `delay`. `ms` is waited first. `match` is a
        part of the request that must be there; `count` 0 is for ever, `prob` 0 always.
        """
        rule = {"method": method, "kind": kind, "fault": fault, "status": status, "ms": ms}
        self._control("POST", "rules", rule | {"match": match, "count": count, "prob": prob})

    def clear_faults(self) -> None:
        """Forget all rules of `inject`."""
        self._control("DELETE", "rules")

    def set_host(
        self,
        name: str,
        *,
        state: str | None = None,
        maintenance: bool | None = None,
        memory_mb: int | None = None,
        networks: Sequence[str] | None = None,
        datastores: Sequence[str] | None = None,
    ) -> None:
        """Change a host as seen through the API. `state`: connected, disconnected, notResponding. `networks` and
        `datastores` are those of the server that it has from now on.
        """
        order: dict[str, Any] = {"name": name}
        order |= {"state": state} if state is not None else {}
        order |= {"maintenance": maintenance} if maintenance is not None else {}
        order |= {"memory_mb": memory_mb} if memory_mb is not None else {}
        order |= {"networks": list(networks)} if networks is not None else {}
        order |= {"datastores": list(datastores)} if datastores is not None else {}
        self._control("POST", "hosts", order)

    def reboot_host(self, name: str, *, stateless: bool = False) -> None:
        """Reboot a host of a vCenter: its VMs are off; a `stateless` one has none registered any more."""
        self._control("POST", "hosts", {"name": name, "reboot": True, "stateless": stateless})

    def readd_host(self, name: str) -> None:
        """Remove a host from its vCenter and add it again: other ids, the same uuid, and what runs runs on."""
        self._control("POST", "hosts", {"name": name, "readd": True})

    def set_guest(
        self, vm: str, addresses: Mapping[str, Sequence[str]] | None = None, *, tools: bool | None = None
    ) -> None:
        """What VMware Tools in a guest say: the addresses of its network cards, by MAC. `tools`: whether they run,
        until the VM is switched on the next time.
        """
        order: dict[str, Any] = {"vm": vm}
        order |= {"addresses": addresses} if addresses is not None else {}
        order |= {"tools": tools} if tools is not None else {}
        self._control("POST", "guests", order)

    def set_password(self, password: str) -> None:
        """Change the account's password: later logins with the old one fail; see `expire_sessions`."""
        self._control("POST", "account", {"password": password})
        self.password = password

    def set_clock(self, ahead_s: float) -> None:
        """Let the server's clock, as it tells it, be before (or, below 0, behind) the real time."""
        self._control("POST", "clock", {"ahead_s": ahead_s})

    def set_question(
        self, vm: str, text: str, choices: Sequence[str], *, message: str = "msg.test", at_power_on: bool = False
    ) -> None:
        """Make a VM ask, now or the next time it is switched on (once; it need not be registered yet). Until it is
        answered it is not switched on; a choice with "cancel" in it ends that with a fault, one with "copied" gives
        the VM a new uuid and new generated MACs first.
        """
        order = {"vm": vm, "text": text, "choices": list(choices), "id": message}
        self._control("POST", "questions", order | {"at": "poweron" if at_power_on else "now"})

    def set_pace(self, copy_mb_s: float) -> None:
        """From now on each copy of a disk writes so many MB a second, also those that run; 0 as many as it can. A copy
        at a pace near 0 stands still.
        """
        self._control("POST", "pace", {"mb_s": copy_mb_s})

    def answer_question(self, vm: str, choice: str) -> None:
        """Answer what a VM asks, as an admin in the vSphere client; `choice` is one of its labels."""
        self._control("POST", "answers", {"vm": vm, "choice": choice})

    def expire_sessions(self) -> None:
        """End all sessions: their next call gets NotAuthenticated."""
        self._control("DELETE", "sessions")

    def sessions(self) -> int:
        """How many sessions are open."""
        count = self._control("GET", "sessions")
        assert isinstance(count, int)
        return count

    def calls(self) -> dict[str, int]:
        """How often each method was called so far."""
        counted = self._control("GET", "calls")
        assert isinstance(counted, dict)
        return counted

    def inventory(self) -> dict[str, list[dict[str, Any]]]:
        """`hosts` (name, state, maintenance, memory_mb, used_mb) and `vms` (name, path, power, host, uuid, memory_mb,
        macs, disks) as the server has them, without a session.
        """
        report = self._control("GET", "inventory")
        assert isinstance(report, dict)
        return report

    def pause(self) -> None:
        """Stop the process: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # until then some of its threads run on

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it like a power cut: what was registered will be there after a restart."""
        self._process.kill()
        self._reap()

    def stop(self) -> None:
        """End it, paused or not; a second time does nothing."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)
        self._reap()
        self._inventory.unlink(missing_ok=True)

    def _reap(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_ready(self) -> int:
        """The port from the line the server writes when it listens."""
        output = self._process.stdout
        assert output is not None
        line, deadline = b"", time.monotonic() + _START_TIMEOUT_S
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TestbedError(f"The vSphere server did not start within {_START_TIMEOUT_S} s, see {self.log}.")
                part = os.read(output.fileno(), 4096)
                if not part:
                    raise TestbedError(f"The vSphere server ended at once: {self.log.read_text()[-2000:]}")
                line += part
        return int(json.loads(line)["port"])

    def _control(self, method: str, path: str, body: object = None) -> object:
        connection = http.client.HTTPSConnection(self.host, self.port, context=self._tls, timeout=_START_TIMEOUT_S)
        try:
            connection.request(method, f"/ctl/{path}", json.dumps(body), {"X-Vsim-Control": self._token})
            answer = connection.getresponse()
            content = answer.read().decode()
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise TestbedError(f"The vSphere server refused {method} /ctl/{path} {body}: {content.strip()}")
        return json.loads(content)


def _command_line(host: str, user: str, options: Options) -> list[str]:
    line = ["-listen", f"{host}:{options.get('port', 0)}", "-exit-on-eof", "-username", user]
    line += ["-tlscert", str(options["certificate"]), "-tlskey", str(options["key"])]
    line += ["-datastores", ",".join(f"{name}={path}" for name, path in options["datastores"].items())]
    line += ["-networks", ",".join(options.get("networks", ("Private", "Public")))]
    line += ["-task-ms", str(options.get("task_ms", 0))]
    line += ["-copy-mb-s", str(options.get("copy_mb_s", 0))]
    line += ["-admit"] if options.get("admit", True) else []
    line += ["-stale-space"] if options.get("stale_space") else []
    line += ["-stateless"] if options.get("stateless") else []
    line += ["-multiextent"] if options.get("multiextent") else []
    for flag in ("capacity_mb", "power_socket"):
        if options.get(flag):
            line += [f"-{flag.replace('_', '-')}", str(options.get(flag))]
    line += ["-idle", f"{options['idle_s']}s"] if options.get("idle_s") else []
    return line


def _host_argument(host: HostSpec) -> str:
    return f"{host.name}:{host.memory_mb}:{host.cores}:{host.mhz}" + (":nested" if host.nested else "")


def golden_disk(
    directory: Path,
    name: str,
    size_mb: int,
    adapter: str = "lsilogic",
    payload: bytes = b"",
    *,
    create_type: str = "vmfs",
    extents: int = 1,
) -> Path:
    """Write `<directory>/<name>/<name>.vmdk` and its thin content, `payload` first; returns the descriptor's path.

    `create_type` may be one of Workstation's (`twoGbMaxExtentSparse`, `twoGbMaxExtentFlat`) with several `extents`;
    the content of a sparse one is not in Workstation's format, but a plain file that ends where its data ends.
    """
    home = directory / name
    home.mkdir(parents=True, exist_ok=True)
    access, letter = {"vmfs": ("VMFS", ""), "twoGbMaxExtentSparse": ("SPARSE", "s")}.get(create_type, ("FLAT", "f"))
    part_bytes = size_mb * 1024 * 1024 // extents
    lines = ""
    for number in range(extents):
        part = f"{name}-{letter}{number + 1:03d}.vmdk" if letter else f"{name}-flat.vmdk"
        with (home / part).open("wb") as content:
            content.write(payload[number * part_bytes : (number + 1) * part_bytes])
            if access != "SPARSE":
                content.truncate(part_bytes)
        lines += f'RW {part_bytes // _SECTOR} {access} "{part}"{" 0" if access == "FLAT" else ""}\n'
    descriptor = home / f"{name}.vmdk"
    descriptor.write_text(
        "# Disk DescriptorFile\n"
        "version=1\n"
        'encoding="UTF-8"\n'
        "CID=fffffffe\n"
        "parentCID=ffffffff\n"
        f'createType="{create_type}"\n'
        "\n"
        "# Extent description\n"
        f"{lines}"
        "\n"
        "# The Disk Data Base\n"
        "#DDB\n"
        "\n"
        f'ddb.adapterType = "{adapter}"\n'
        'ddb.thinProvisioned = "1"\n'
        'ddb.virtualHWVersion = "11"\n'
    )
    return descriptor
