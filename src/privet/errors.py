"""The one error that a user sees: what was wrong, what was given, what is allowed, and the next step."""

from __future__ import annotations

from privet.plain import plain_lines


class PrivetError(Exception):
    """A mistake or condition that the person at the keyboard can act on; never printed with a stack trace.

    Args:
        message: One sentence that says what is wrong.
        field: Path of the setting or file concerned, e.g. ``privacy.delta``.
        given: What was found there. Never a secret and never a record's content.
        allowed: What would be accepted.
        hint: The next step.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        given: object | None = None,
        allowed: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message, self.field, self.given, self.allowed, self.hint = message, field, given, allowed, hint
        super().__init__(self.render())

    def render(self) -> str:
        """The error on as many short lines as it has parts."""
        lines = [f"{self.field}: {self.message}" if self.field else self.message]
        if self.given is not None:
            lines.append(f"  given:   {self.given}")
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.hint:
            lines.append(f"  next:    {self.hint}")
        # Part of it may be what somebody else wrote: it must not move the cursor of whoever reads it.
        return plain_lines("\n".join(lines))

    def as_dict(self) -> dict[str, str]:
        """The parts that are set, as strings, for ``--json``."""
        parts = {"message": self.message, "field": self.field, "given": self.given}
        parts |= {"allowed": self.allowed, "hint": self.hint}
        return {k: str(v) for k, v in parts.items() if v is not None}
