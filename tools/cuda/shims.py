#!/usr/bin/env python3
"""Link shims: static libraries with the symbols of libcuda, libnvrtc, libcurand, libcublas and libcublasLt.

candle's dependency cudarc links these libraries, so that a binary would not start without them, and could not be linked
on a machine that lacks them. A shim looks its library up when one of its functions is first called. If the library or the
function is not there, the call returns the library's own code for that, and the caller falls back or reports it.

usage: shims.py <sources of cudarc> <folder for the libraries>      (x86-64, Linux, a C compiler)
"""
import pathlib
import re
import subprocess
import sys
import tempfile

# name: module of cudarc that declares it, what its functions are called, names of the library, code for "not there"
LIBRARIES = {
    "cuda": ("driver", r"cu[A-Z]\w*", ["libcuda.so.1"], 100),  # CUDA_ERROR_NO_DEVICE
    "nvrtc": ("nvrtc", r"nvrtc\w+", ["libnvrtc.so.13", "libnvrtc.so.12"], 11),  # NVRTC_ERROR_INTERNAL_ERROR
    "curand": ("curand", r"curand\w+", ["libcurand.so.10"], 203),  # CURAND_STATUS_INITIALIZATION_FAILED
    "cublas": ("cublas", r"cublas\w+", ["libcublas.so.13", "libcublas.so.12"], 1),  # CUBLAS_STATUS_NOT_INITIALIZED
    "cublasLt": ("cublaslt", r"cublas\w+", ["libcublasLt.so.13", "libcublasLt.so.12"], 1),
}

# Functions that return text instead of a code.
TEXT = re.compile(r"nvrtcGetErrorString|cublas(Lt)?GetStatus(Name|String)")

LOOKUP = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct function { const char *name; int text; };
static const struct function functions[] = { @FUNCTIONS@ };
static const char *const libraries[] = { @LIBRARIES@ };
static const char *const folders[] = { "", "/usr/local/cuda/lib64/", "/usr/local/nvidia/lib64/" };
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *library;

extern void *@PREFIX@_targets[] __attribute__((visibility("hidden")));

static int absent(void) { return @ABSENT@; }
static const char *absent_text(void) { return "@NAME@ is not on this machine"; }

static void *open_in(const char *folder, const char *name) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s%s", folder, name) >= (int)sizeof path) return 0;
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

/* The folder in CANDOR_CUDA_LIBS first, then the loader's own search, then where toolkits and containers put it. */
static void find_library(void) {
    const char *chosen = getenv("CANDOR_CUDA_LIBS");
    char folder[4096];
    for (unsigned i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        if (chosen && snprintf(folder, sizeof folder, "%s/", chosen) < (int)sizeof folder) library = open_in(folder, libraries[i]);
        for (unsigned f = 0; !library && f < sizeof folders / sizeof *folders; f++) library = open_in(folders[f], libraries[i]);
        if (library) return;
    }
}

__attribute__((visibility("hidden"))) void *@PREFIX@_find(unsigned long index) {
    pthread_once(&once, find_library);
    void *found = library ? dlsym(library, functions[index].name) : 0;
    if (!found) found = functions[index].text ? (void *)absent_text : (void *)absent;
    __atomic_store_n(&@PREFIX@_targets[index], found, __ATOMIC_RELEASE);
    return found;
}
"""

# A function jumps to its target. At first that is a stub that names the function and has it found, with every register
# that may carry an argument kept.
ENTRIES = """
    .macro function name, index
    .globl \\name
    .type \\name, @function
\\name:
    jmp *@PREFIX@_targets + 8 * \\index(%rip)
    .size \\name, . - \\name
.Lfirst\\index:
    mov $\\index, %eax
    jmp .Lfind
    .pushsection .data.rel.local, "aw"
    .quad .Lfirst\\index
    .popsection
    .endm

    .pushsection .data.rel.local, "aw"
    .hidden @PREFIX@_targets
    .globl @PREFIX@_targets
    .balign 8
@PREFIX@_targets:
    .popsection

    .text
.Lfind:
    push %rbp
    mov %rsp, %rbp
    and $-16, %rsp
    sub $176, %rsp
@SAVE@
    mov %eax, %edi
    call @PREFIX@_find
    mov %rax, %r11
@RESTORE@
    mov %rbp, %rsp
    pop %rbp
    jmp *%r11

@FUNCTIONS@
    .section .note.GNU-stack, "", @progbits
"""

INTEGERS = ["rdi", "rsi", "rdx", "rcx", "r8", "r9"]


def moves(save):
    lines = [(f"%{name}", f"{8 * i}(%rsp)", "mov") for i, name in enumerate(INTEGERS)]
    lines += [(f"%xmm{i}", f"{48 + 16 * i}(%rsp)", "movups") for i in range(8)]
    return "\n".join(f"    {op} {a}, {b}" if save else f"    {op} {b}, {a}" for a, b, op in lines)


def fill(template, values):
    for key, value in values.items():
        template = template.replace(f"@{key}@", str(value))
    return template


def main(cudarc, folder):
    declared = set()
    for name, (module, pattern, libraries, absent) in LIBRARIES.items():
        source = (cudarc / "src" / module / "sys" / "mod.rs").read_text()
        functions = sorted(set(re.findall(rf"\bfn ({pattern})\s*\(", source)) - declared)
        declared.update(functions)
        values = {
            "NAME": f"lib{name}",
            "PREFIX": f"candor_shim_{name}",
            "ABSENT": absent,
            "LIBRARIES": ", ".join(f'"{library}"' for library in libraries),
        }
        c = {"FUNCTIONS": ", ".join(f'{{"{f}", {int(bool(TEXT.fullmatch(f)))}}}' for f in functions)}
        asm = {
            "FUNCTIONS": "\n".join(f"    function {f}, {i}" for i, f in enumerate(functions)),
            "SAVE": moves(True),
            "RESTORE": moves(False),
        }
        with tempfile.TemporaryDirectory() as work:
            work = pathlib.Path(work)
            (work / "lookup.c").write_text(fill(LOOKUP, values | c))
            (work / "entries.s").write_text(fill(ENTRIES, values | asm))
            objects = []
            for file in ["lookup.c", "entries.s"]:
                objects.append(work / (file + ".o"))
                subprocess.check_call(["cc", "-O2", "-fPIC", "-c", work / file, "-o", objects[-1]])
            archive = folder / f"lib{name}.a"
            archive.unlink(missing_ok=True)
            subprocess.check_call(["ar", "rcs", archive, *objects])
        print(f"{archive.name}: {len(functions)} functions")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
