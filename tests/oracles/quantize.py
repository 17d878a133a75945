#!/usr/bin/env python3
"""Quantises a GGUF file with llama.cpp's own quantiser.

    python3 -m venv venv && venv/bin/pip install llama-cpp-python
    venv/bin/python tests/oracles/quantize.py INPUT.gguf OUTPUT.gguf TYPE [--pure] [--threads N]

TYPE is a llama.cpp file type: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, Q3_K_M, Q2_K, IQ4_XS, MXFP4_MOE, …
(`--list` prints them all). A quantised INPUT is dequantised first, so `TYPE` F32 opens a quantised file up. Types below
about 2.5 bits per weight (IQ1_*, IQ2_*) and IQ3_XXS need an importance matrix in llama.cpp; here every column gets the
same importance. `--pure` uses the one type for all matrices instead of llama.cpp's mixture.

Exit status: 0 written, 1 the quantiser refused, 64 bad usage.
"""

import argparse
import ctypes
import os
import sys

import llama_cpp

PREFIX = "LLAMA_FTYPE_"


def file_types():
    """Every llama.cpp file type by its plain name."""
    found = {}
    for name in dir(llama_cpp):
        if name.startswith(PREFIX) and name != PREFIX + "GUESSED":
            plain = name[len(PREFIX):].removeprefix("MOSTLY_").removeprefix("ALL_")
            found[plain] = getattr(llama_cpp, name)
    return found


def uniform_importance(path):
    """An importance matrix of ones for every matrix in the file, as llama.cpp's array of structures."""
    import gguf

    entries = []
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) < 2:
            continue
        size = int(tensor.shape[0]) * (int(tensor.shape[2]) if len(tensor.shape) > 2 else 1)
        values = (ctypes.c_float * size)(*([1.0] * size))
        entries.append((tensor.name.encode(), values, size))
    structure = llama_cpp.llama_model_imatrix_data
    array = (structure * (len(entries) + 1))()
    for i, (name, values, size) in enumerate(entries):
        array[i].name, array[i].size = name, size
        array[i].data = ctypes.cast(values, ctypes.POINTER(ctypes.c_float))
    return array, entries


def quantize(source, target, kind, pure=False, threads=0):
    """Writes `target`; returns llama.cpp's status, 0 for success."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = threads
    parameters.ftype = file_types()[kind]
    parameters.allow_requantize = True
    parameters.pure = pure
    kept = None
    if kind.startswith(("IQ1", "IQ2", "IQ3_XXS")) or kind == "Q2_K_S":
        array, kept = uniform_importance(source)
        parameters.imatrix = array
    status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters))
    del kept
    return status


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(sorted(file_types())))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("type", choices=sorted(file_types()), metavar="TYPE")
    parser.add_argument("--pure", action="store_true", help="one type for all matrices")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    try:
        arguments = parser.parse_args()
    except SystemExit as end:
        return 64 if end.code else 0
    llama_cpp.llama_backend_init()
    status = quantize(arguments.input, arguments.output, arguments.type, arguments.pure, arguments.threads)
    if status:
        print(f"llama.cpp refused to quantise {arguments.input} to {arguments.type} (status {status})", file=sys.stderr)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
