"""Run every measurement."""

from benchmarks import ladder

if __name__ == "__main__":
    ladder.main()
