"""An emulated 64-bit ARM machine: Debian 12 and Python 3.11 under qemu, without root and without changing the host.

The machine is one folder. A private apt fetches Debian's packages, and uv fetches wheels for aarch64. Commands run in
private namespaces, where binfmt_misc starts ARM programs with qemu. This needs Linux 6.7 or newer, where each user
namespace can have its own binfmt_misc.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from commandline import FaultError, progress

PACKAGES = ("python3.11", "libstdc++6", "libgomp1", "libc-bin", "dash", "coreutils")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
WHEELS = "aarch64-manylinux_2_35"
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""With /sbin, because chroot is not on the PATH of ordinary users."""
TOOLS = ("apt-get", "dpkg-deb", "unshare", "setpriv", "chroot", "mount", "tar")
CPU_PARTS = {"cortex-a53": 0xD03, "cortex-a72": 0xD08, "cortex-a76": 0xD0B}
MODELS = {
    "cortex-a53": "Raspberry Pi Zero 2 W Rev 1.0",
    "cortex-a72": "Raspberry Pi 4 Model B Rev 1.5",
    "cortex-a76": "Raspberry Pi 5 Model B Rev 1.0",
}
"""The model in the device tree of a board with each processor."""

ELF_MAGIC = r"\x7fELF\x02\x01\x01\x00" + r"\x00" * 8 + r"\x02\x00\xb7\x00"
ELF_MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"
"""Match 64-bit aarch64 programs, of any ABI, relocatable or not."""

PROBE = """
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
mount -t proc proc /proc
"""
# Hide the processors of the host: ONNX Runtime would configure itself for them and crash.
ENTER = """
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs none "$root/tmp"
mount -t tmpfs none "$root/sys"
mkdir -p "$root/sys/devices/system/cpu"
mkdir -p "$root/sys/firmware/devicetree/base"
printf '%s\\0' "$model" > "$root/sys/firmware/devicetree/base/model"
for list in possible present online; do echo "0-$((cpus - 1))" > "$root/sys/devices/system/cpu/$list"; done
mount --bind "$work/cpuinfo" "$root/proc/cpuinfo"
mount --rbind "$work/site-$site" "$root/site"
mount --rbind "$work/share" "$root/share"
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf %s ":arm64:M::$magic:$mask:$work/qemu:F" > /proc/sys/fs/binfmt_misc/register
# The shell stays as process 1, which must reap orphans and receives only signals that it handles.
chroot "$root" /usr/bin/env -i -C /share PATH=/site/bin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 \\
  PYTHONPATH=/site PYTHONDONTWRITEBYTECODE=1 QEMU_CPU="$cpu" "$@" || exit $?
"""


class CannotEmulateError(Exception):
    """The host cannot run the machine. The message is one line with the reason."""


class Arm64:
    """The machine in the folder `work`, with the processor `cpu`, a key of `CPU_PARTS`.

    Both sides read and write the folder `share`. On the machine it is /share, the working directory of commands.
    Raises CannotEmulateError.
    """

    def __init__(self, work: Path, cpu: str = "cortex-a72") -> None:
        self.work = work.absolute()
        self.cpu = cpu
        self.share = self.work / "share"
        self._root = self.work / "root"
        _check_host()

    def prepare(self) -> None:
        """Fetch the system (about 60 MB), unless an earlier call has. Raises FaultError."""
        recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        stamp = self.work / "recipe"
        if not stamp.exists() or stamp.read_text() != recipe:
            progress("fetching Debian for arm64 and qemu")
            for name in ("root", "apt"):
                shutil.rmtree(self.work / name, ignore_errors=True)
            for name in ("etc", "proc", "dev", "sys", "tmp", "site", "share"):
                (self._root / name).mkdir(parents=True)
            self._fetch_system()
            (self._root / "etc/passwd").write_text("root:x:0:0::/tmp:/bin/sh\n")
            (self._root / "etc/group").write_text("root:x:0:\n")
            if not (self.work / "tools/bin/uv").exists():
                venv.create(self.work / "tools", with_pip=True, clear=True)
                _run([self.work / "tools/bin/pip", "install", "--quiet", "uv"])
            stamp.write_text(recipe)
        shutil.rmtree(self.share, ignore_errors=True)
        self.share.mkdir()
        (self.work / "cpuinfo").write_text(_cpuinfo(CPU_PARTS[self.cpu], os.cpu_count() or 1))

    def _fetch_system(self) -> None:
        apt = self.work / "apt"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources").write_text(f"deb [signed-by={KEYRING}] {MIRROR} bookworm main\n")
        (apt / "conf").write_text(_apt_settings(apt))
        environment = {**os.environ, "APT_CONFIG": str(apt / "conf")}
        _run(["apt-get", "-qq", "update"], env=environment)
        _run(["apt-get", "-qq", "-y", "--download-only", "install", *PACKAGES], env=environment)
        _run(["apt-get", "-qq", "download", "qemu-user-static:amd64"], env=environment, cwd=apt / "cache")
        for package in sorted((apt / "cache/archives").glob("*.deb")):
            _run(["dpkg-deb", "--extract", package, self._root])
        (emulator,) = (apt / "cache").glob("qemu-user-static*.deb")
        _run(["dpkg-deb", "--extract", emulator, apt / "emulator"])
        shutil.move(apt / "emulator/usr/bin/qemu-aarch64-static", self.work / "qemu")
        shutil.rmtree(apt / "emulator")

    def build_wheel(self, project: Path) -> Path:
        """Build the project's wheel and return its path. Raises FaultError."""
        folder = self.work / "wheel"
        shutil.rmtree(folder, ignore_errors=True)
        self._uv("build", "--quiet", "--wheel", "--out-dir", folder, project)
        (wheel,) = folder.glob("*.whl")
        return wheel

    def install(self, site: str, requirements: Sequence[str], constraints: Path) -> dict[str, str]:
        """Install aarch64 wheels as `site`; return versions by name. Raises FaultError where a wheel is missing."""
        target = self.work / f"site-{site}"
        shutil.rmtree(target, ignore_errors=True)
        options = ("--python-version", "3.11", "--python-platform", WHEELS, "--only-binary", ":all:")
        self._uv("pip", "install", "--quiet", *options, "--target", target, "-c", constraints, *requirements)
        found = (folder.name.removesuffix(".dist-info").split("-") for folder in target.glob("*.dist-info"))
        return dict(sorted((name, version) for name, version in found))

    def command(self, site: str, *words: str) -> list[str]:
        """Return the host command that runs `words` on the machine, with the packages of `site`.

        Its exit status is that of `words`.
        """
        names = {"root": self._root, "work": self.work, "site": site, "cpus": os.cpu_count() or 1, "PATH": PATH}
        names |= {"cpu": self.cpu, "model": MODELS[self.cpu], "magic": ELF_MAGIC, "mask": ELF_MASK}
        settings = [f"{name}={value}" for name, value in names.items()]
        # Kill the machine's processes when this process ends.
        namespaces = ["setpriv", "--pdeathsig", "KILL", "unshare", "-Urm", "--pid", "--fork", "--kill-child"]
        return ["env", *settings, *namespaces, "sh", "-ec", ENTER, "sh", *words]

    def _uv(self, *words: str | Path) -> None:
        environment = {**os.environ, "UV_CACHE_DIR": str(self.work / "wheels"), "UV_NATIVE_TLS": "1"}
        _run([self.work / "tools/bin/uv", *words], env=environment)


def _check_host() -> None:
    host = f"{platform.system()} {platform.machine()}"
    if host != "Linux x86_64":
        raise CannotEmulateError(f"the host is {host}; Linux x86_64 is needed")
    for tool in TOOLS:
        if shutil.which(tool, path=PATH) is None:
            raise CannotEmulateError(f"the host has no {tool}; install it")
    if not KEYRING.exists():
        raise CannotEmulateError(f"the host has no {KEYRING}; install debian-archive-keyring")
    probe = ["unshare", "-Urm", "--pid", "--fork", "sh", "-ec", PROBE]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise CannotEmulateError(f"a user namespace cannot have its own binfmt_misc, which needs Linux 6.7: {reason}")


def _apt_settings(apt: Path) -> str:
    """Return apt's settings: the host's for reaching the mirror, and a private state."""
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    kept = [line for line in dumped.splitlines() if line.startswith("Acquire::")]
    private = f"""
APT::Architecture "arm64"; APT::Architectures {{ "arm64"; "amd64"; }};
APT::Install-Recommends "false"; APT::Sandbox::User "";
Acquire::Languages "none"; Acquire::Retries "3";
Dir::State "{apt}/state"; Dir::State::status "{apt}/status"; Dir::Cache "{apt}/cache";
Dir::Etc::main "/dev/null"; Dir::Etc::parts "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "{apt}/sources"; Dir::Etc::sourceparts "/dev/null";
"""
    return "\n".join([*kept, private])


def _cpuinfo(part: int, cpus: int) -> str:
    """Return the /proc/cpuinfo of `cpus` processors with this CPU part."""
    lines = (
        "Features\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
    )
    return "".join(f"processor\t: {cpu}\n{lines}CPU part\t: {part:#x}\nCPU revision\t: 3\n\n" for cpu in range(cpus))


def _run(words: Sequence[str | Path], **settings: object) -> None:
    done = subprocess.run(words, stdout=sys.stderr, **settings)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise FaultError(f"{' '.join(map(str, words[:4]))} … ended with status {done.returncode}")
