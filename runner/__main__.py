"""`python -m trainopt.runner …` is `trainopt …`; torchrun starts it, with `-m trainopt.runner`."""

from .cli import main

if __name__ == "__main__":
    main()
