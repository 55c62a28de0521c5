"""Can torch.compile work here?"""

from __future__ import annotations

from ..facts import Facts
from ..rule import Check, Topic
from .precision import generation

_SOURCE = "torch 2.13 _inductor/exc.py, _inductor/compile_fx.py; triton runtime/build.py"


def torch_compile(facts: Facts) -> list[Check]:
    if facts.torch is None:
        return []
    title, required = "torch.compile", "triton, a C compiler, Python headers, capability 7.0"
    triton = next(
        (
            f"{n} {facts.versions[n]}"
            for n in ("triton", "triton-windows", "pytorch-triton", "pytorch-triton-rocm")
            if n in facts.versions
        ),
        "",
    )
    capabilities = facts.capabilities
    found = ", ".join(x for x in (triton or "no triton", facts.system.c_compiler or "no C compiler") if x)

    def verdict(why: str, fix: str | None) -> list[Check]:
        return [Topic("compile", title, required, _SOURCE).warn(found, why, fix)]

    if not any(d.backend in ("cuda", "virtual") for d in facts.driven):
        if facts.system.c_compiler:
            return [
                Topic("compile", title, "a C++ compiler (on the CPU)", _SOURCE).ok(
                    found, "on the CPU it needs g++ or clang++ only"
                )
            ]
        return verdict(
            "torch.compile builds C++ on the CPU and stops without a compiler", _compiler_fix(facts)
        )
    old = [c for c in capabilities if c < (7, 0)]
    if old:
        found += f", capability {old[0][0]}.{old[0][1]}"
        return verdict("the GPU is too old for the triton compiler: leave torch_compile off", None)
    if not triton and not (facts.torch.cuda or facts.torch.hip):
        return [Topic("compile", title, required, _SOURCE).skip(found, "a CUDA build of torch brings triton")]
    if not triton:
        package = "triton-windows" if facts.system.os == "Windows" else "triton"
        return verdict("it stops with 'Cannot find a working triton installation'", f"pip install {package}")
    if not facts.system.c_compiler:
        return verdict(
            "it stops with 'Failed to find C compiler'; triton builds a launcher for each kernel",
            _compiler_fix(facts),
        )
    if not facts.system.python_headers:
        minor = f"{facts.system.python[0]}.{facts.system.python[1]}"
        return verdict("triton's launcher needs Python.h", f"sudo apt install python{minor}-dev")
    emulated = [row for c in capabilities if (row := generation(c)) and row["bf16"] == "emulated"]
    note = "; bf16 models are skipped on this card, fp16 ones compile" if emulated else ""
    return [
        Topic("compile", title, required, _SOURCE).ok(found, "faster steps after a first slow one" + note)
    ]


def _compiler_fix(facts: Facts) -> str:
    if facts.system.os == "Windows":
        return "install the Build Tools for Visual Studio (C++)"
    if facts.system.os == "Darwin":
        return "xcode-select --install"
    return "sudo apt install build-essential"


RULES = (torch_compile,)
