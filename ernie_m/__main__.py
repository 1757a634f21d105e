"""`python -m ernie_m COMMAND …` is `ernie-m COMMAND …`."""

from ernie_m.commands.choice import main

if __name__ == "__main__":
    main()
