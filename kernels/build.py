#!/usr/bin/env python3
"""Builds kernels/ptx/ from kernels/*.cu with a pinned compiler, and checks that it is what the sources give.

    build.py            compile, and write ptx/*.ptx, ptx/sources.sha256 and, where ptxas is found, ptx/registers.tsv
    build.py --check    compile, assemble, and compare with what is checked in; nothing is written
    build.py --hashes   compare the recorded hashes of the sources alone: needs no compiler

The compiler is NVRTC out of two wheels, the assembler out of a third; nothing else of CUDA is needed, and no GPU:

    pip install nvidia-cuda-nvrtc-cu12==12.4.127 nvidia-cuda-runtime-cu12==12.4.127 nvidia-cuda-nvcc-cu12==12.9.86

It is looked for in the running Python's packages.
"""

import ctypes
import hashlib
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PTX = HERE / "ptx"
VERSION = "12.4.127"
ARCHITECTURE = "80"
TARGETS = ["80", "86", "89", "90a", "100", "120"]
# Files of kernels for one kind of GPU alone end in its name.
OWN = ["90a"]
# Products and sums round one after the other: F32 instances have the bits of the crate's reference loops.
OPTIONS = ["--std=c++17", "--fmad=false"]


def sources():
    return sorted(HERE.glob("*.cu"))


def own(stem):
    """The kind of GPU that a file is for, if it is for one alone."""
    return next((target for target in OWN if stem.endswith(f"_{target}")), None)


def options(stem):
    return [f"--gpu-architecture=compute_{own(stem) or ARCHITECTURE}", *OPTIONS]


def digest(source):
    """What a product was made from: the source, the headers, the compiler and its options."""
    sha = hashlib.sha256()
    headers = [header.read_bytes() for header in sorted(HERE.glob("*.cuh"))]
    for part in [source.read_bytes(), *headers, VERSION.encode(), " ".join(options(source.stem)).encode()]:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()


def record():
    """One line a file: hash of what it was made from, hash of the product, name."""
    lines = []
    for source in sources():
        product = PTX / f"{source.stem}.ptx"
        sha = hashlib.sha256(product.read_bytes()).hexdigest() if product.exists() else "missing"
        lines.append(f"{digest(source)}  {sha}  {source.stem}\n")
    return "".join(lines)


def packages():
    return pathlib.Path(sysconfig.get_paths()["purelib"]) / "nvidia"


class Compiler:
    def __init__(self):
        library = packages() / "cuda_nvrtc" / "lib"
        ctypes.CDLL(str(library / "libnvrtc-builtins.so.12.4"), mode=ctypes.RTLD_GLOBAL)
        self.nvrtc = ctypes.CDLL(str(library / "libnvrtc.so.12"))
        self.includes = [f"-I{packages() / 'cuda_runtime' / 'include'}", f"-I{HERE}"]

    def check(self, status, program=None):
        if status != 0:
            log = b""
            if program is not None:
                size = ctypes.c_size_t()
                self.nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
                log = ctypes.create_string_buffer(size.value)
                self.nvrtc.nvrtcGetProgramLog(program, log)
                log = log.value
            sys.exit(f"NVRTC failed ({status}):\n{log.decode()}")

    def compile(self, source):
        program = ctypes.c_void_p()
        # The bare name: a path would end up in the product.
        self.check(
            self.nvrtc.nvrtcCreateProgram(
                ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None
            )
        )
        flags = [flag.encode() for flag in options(source.stem) + self.includes]
        array = (ctypes.c_char_p * len(flags))(*flags)
        self.check(self.nvrtc.nvrtcCompileProgram(program, len(flags), array), program)
        size = ctypes.c_size_t()
        self.check(self.nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self.check(self.nvrtc.nvrtcGetPTX(program, text))
        self.nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
        return text.value


def assembled(products):
    """A table of what the assembler says of every kernel; nothing where there is no assembler, which a check wants."""
    ptxas = packages() / "cuda_nvcc" / "bin" / "ptxas"
    if not ptxas.exists():
        return None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stem, text in products.items():
            file = pathlib.Path(folder) / f"{stem}.ptx"
            file.write_bytes(text)
            for target in [own(stem)] if own(stem) else TARGETS:
                command = [ptxas, "-v", f"-arch=sm_{target}", "-o", "/dev/null", file]
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode != 0:
                    sys.exit(f"ptxas sm_{target} {stem}:\n{result.stderr}")
                # Hopper's products overlap with what goes on beside them, unless the assembler cannot prove that they may.
                if "serialized" in result.stderr:
                    sys.exit(f"ptxas sm_{target} {stem} makes products wait:\n{result.stderr}")
                kernel = None
                for line in result.stderr.splitlines():
                    if found := re.search(r"Compiling entry function '(\w+)'", line):
                        kernel = found[1]
                    if found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
                        stack, spills = found[1], found[2]
                    if kernel and (found := re.search(r"Used (\d+) registers", line)):
                        shared = re.search(r"(\d+) bytes smem", line)
                        row = [stem, kernel, target, found[1], stack, spills, shared[1] if shared else "0"]
                        rows.append(row)
                        kernel = None
    header = ["file", "kernel", "sm", "registers", "stack_bytes", "spill_bytes", "shared_bytes"]
    lines = ["\t".join(row) + "\n" for row in [header] + sorted(rows)]
    if spilled := [row for row in rows if row[5] != "0"]:
        sys.exit(f"these kernels spill registers: {spilled}")
    return "".join(lines)


def main():
    if sys.argv[1:] == ["--hashes"]:
        if (PTX / "sources.sha256").read_text() != record():
            sys.exit("kernels/ptx/ is not what kernels/*.cu give: run kernels/build.py")
        return
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    compiler = Compiler()
    products = {source.stem: compiler.compile(source) for source in sources()}
    wanted = {f"{stem}.ptx": text for stem, text in products.items()}
    table = assembled(products)
    if table is None and check:
        sys.exit("no ptxas: nothing says whether all GPUs can be assembled for, and whether registers spill")
    if table is not None:
        wanted["registers.tsv"] = table.encode()
    if not check:
        PTX.mkdir(exist_ok=True)
        for name, text in wanted.items():
            (PTX / name).write_bytes(text)
        (PTX / "sources.sha256").write_text(record())
        return
    stale = [name for name, text in wanted.items() if (PTX / name).read_bytes() != text]
    if stale or (PTX / "sources.sha256").read_text() != record():
        sys.exit(f"not what kernels/*.cu give: {stale or 'sources.sha256'}: run kernels/build.py")


if __name__ == "__main__":
    main()
