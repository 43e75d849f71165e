"""The memory that `raymodel plan` predicts for a worker, beside the peak that is measured.

`python benchmarks/plan_memory.py [--zero 0 1 2 3] [--tensor 1 2] [--workers 2] [--precision bf16]`

A table of predictions, then each case in turn: a Llama of 47 M parameters trains for three steps in
fresh gloo processes. `raymodel/testing/peak.py` says what is measured, and how.
"""

import argparse

from raymodel.observe.text import table_text
from raymodel.testing.peak import MemoryCase

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zero", nargs="*", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--tensor", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", default="bf16")
    arguments = parser.parse_args()
    print(predicted_table(arguments.precision), end="\n\n", flush=True)
    for tensor in arguments.tensor:
        for zero in arguments.zero:
            report(
                MemoryCase(
                    zero=zero,
                    tensor=tensor,
                    workers=arguments.workers,
                    precision=_precision(arguments.precision, zero, tensor),
                )
            )


def predicted_table(precision: str) -> str:
    """A row for each ZeRO stage and tensor size, a column for each number of workers."""
    rows = []
    for tensor in (1, 2):
        for zero in range(4):
            row: dict[str, object] = {"ZeRO": zero, "tensor": tensor}
            for workers in (2, 4, 8):
                case = MemoryCase(
                    zero=zero,
                    tensor=tensor,
                    workers=workers,
                    precision=_precision(precision, zero, tensor),
                )
                peak = case.plan().peak
                row[f"{workers} workers"] = f"{peak.total / MIB:.0f} MiB ({peak.name})"
            rows.append(row)
    return "predicted peak of a worker\n" + table_text(rows)


def _precision(wanted: str, zero: int, tensor: int) -> str:
    """Stage 0 shares matrices in fp32 only; `train/forecast/support.py` says why."""
    return "fp32" if zero == 0 and tensor > 1 else wanted


def report(case: MemoryCase) -> None:
    peak, measured = case.plan().peak, case.measure()
    print(
        f"ZeRO {case.zero}, tensor {case.tensor}, {case.workers} workers, {case.precision}: "
        f"predicted {peak.total / MIB:.0f} MiB ({peak.name}), measured {measured / MIB:.0f} MiB, "
        f"ratio {peak.total / measured:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
