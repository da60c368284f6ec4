"""The mutants: what is broken, where, and which tests must notice.

Old texts are short, occur once in their file, and are exact to the character; a mutant whose text is gone is stale and
fails the command, so that it is moved along with the code that it breaks.
"""

from __future__ import annotations

from mutants.mutant import Mutant
from mutants.of_mechanism import MECHANISM_MUTANTS
from mutants.of_protocol import PROTOCOL_MUTANTS
from mutants.of_sites import SITE_MUTANTS

MUTANTS: tuple[Mutant, ...] = (*MECHANISM_MUTANTS, *PROTOCOL_MUTANTS, *SITE_MUTANTS)
