"""``python -m privet.cli``: the command line without the script that installation makes."""

from privet.cli import main

main()
