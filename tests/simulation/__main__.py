"""Run universes: `python -m tests.simulation SEED [-v]`, or `--forever`."""

from __future__ import annotations

import argparse
import sys
import time
from itertools import count

from tests.simulation.run import Failed, simulate


def main() -> int:
    """The exit status: 1 if an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="the universe to run; with --count, the first of many")
    parser.add_argument("--count", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--forever", action="store_true", help="one after the other until stopped")
    parser.add_argument("--keep-going", action="store_true", help="tell what fails in one line each, and go on")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell every step")
    arguments = parser.parse_args()
    first = arguments.seed if arguments.seed is not None else int(time.time()) % 10**8 * 1000
    seeds = count(first) if arguments.forever else range(first, first + arguments.count)
    began, failed = time.monotonic(), 0
    for number, seed in enumerate(seeds, 1):
        try:
            universe = simulate(seed)
        except Failed as error:
            if not arguments.keep_going:
                _tell(error, verbose=arguments.verbose)
                return 1
            failed += 1
            print(f"seed {seed}, step {error.universe.step}: {str(error.violation)[:230]}")
            continue
        if arguments.verbose and arguments.count == 1:
            print("\n".join(universe.trace))
        if number % 20 == 0:
            rate = number / (time.monotonic() - began)
            print(f"\r{number} universes, {rate:.1f}/s, {failed} failed, seed {seed} ", end="", file=sys.stderr)
    return 1 if failed else 0


def _tell(error: Failed, *, verbose: bool) -> None:
    if verbose:
        print("\n".join(error.universe.trace))
    print(error)


if __name__ == "__main__":
    sys.exit(main())
